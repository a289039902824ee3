"""What all figures share: colours that survive colour blindness, one colour per recipe, direct labels, panels, SVG and PNG."""

import io
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import altair as alt

from ptqflow.errors import ArtifactError
from ptqflow.reporting.variants import BASELINE

Row = Mapping[str, Any]
Panel = alt.LayerChart | alt.FacetChart
INK, GREY, BAND = "#1b1f24", "#6e7781", "#d8dee4"
# Paul Tol's "muted" scheme, darkest first (https://personal.sron.nl/~pault/): distinct under every common colour blindness.
PALETTE = ("#332288", "#cc6677", "#117733", "#882255", "#44aa99", "#aa4499", "#999933", "#6699cc", "#ddaa33")
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
FONT = "Arial, 'Liberation Sans', Helvetica, sans-serif"
LABEL_SIZE = 11
_BREADTH, _LETTERS = 640, 100  # of a figure without panels: pixels, and letters of a line
HEAT = alt.Scale(domain=[0, 1], range=["#f7f4ec", "#e9c88f", "#c8643c", "#6b1d3a"])  # light to dark, also in grey


def label(row: Row, rows: Iterable[Row]) -> str:
    """A variant's name: its recipe, with the form where the table holds several forms."""
    forms = {r.get("form") for r in rows} - {None}
    return str(row["recipe"]) if row.get("form") is None or len(forms) < 2 else f"{row['recipe']}.{row['form']}"


def styles(names: Iterable[str]) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Colour and dash of each name, in order of first appearance: black for the baseline; new dashes when colours run out."""
    others = [name for name in dict.fromkeys(names) if name != BASELINE]
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(others)}
    dashes = {name: list(DASHES[i // len(PALETTE) % len(DASHES)]) for i, name in enumerate(others)}
    return {BASELINE: INK, **colours}, {BASELINE: [1, 0], **dashes}


def colour(names: Iterable[str], field: str = "name") -> alt.Color:
    """Colour by `field`, without a legend: figures label their lines and points."""
    found, _ = styles(names)
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=list(found), range=list(found.values())), legend=None)


def dash(names: Iterable[str], field: str = "name") -> alt.StrokeDash:
    """Dash by `field`, as `colour`."""
    _, found = styles(names)
    return alt.StrokeDash(f"{field}:N", scale=alt.Scale(domain=list(found), range=list(found.values())), legend=None)


def spread(positions: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Move positions apart to at least `gap`, in their order, as little as possible (pool adjacent violators, least squares).

    They stay between `low` and `high` if there is room, else above `low`.
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    pools: list[tuple[float, int]] = []  # (mean of position - rank * gap, members): nondecreasing means keep every gap
    for rank, i in enumerate(order):
        mean, size = positions[i] - rank * gap, 1
        while pools and pools[-1][0] >= mean:
            before, members = pools.pop()
            mean, size = (before * members + mean * size) / (members + size), members + size
        pools.append((mean, size))
    top = high - (len(positions) - 1) * gap
    targets = [max(low, min(top, mean)) for mean, size in pools for _ in range(size)]
    moved = list(positions)
    for rank, i in enumerate(order):
        moved[i] = targets[rank] + rank * gap
    return moved


def spread_on(values: Sequence[float], domain: tuple[float, float], height: int, log: bool = False) -> list[float]:
    """`spread` for labels of one line of text on an axis of `height` pixels over `domain`."""
    scale = math.log10 if log else float
    low, high = scale(domain[0]), scale(domain[1])
    moved = spread([scale(v) for v in values], (high - low) * (LABEL_SIZE + 2) / height, low, high)
    return [10**v if log else v for v in moved]


_WIDE, _EVEN = 15.0, 2.0  # points: a wider axis would hide the classes around zero; where it turns from even to logarithmic
WIDE_AXIS = "The axis of drops is even around zero and logarithmic beyond a few points."


def drop_domain(rows: Iterable[Row]) -> tuple[float, float]:
    """The axis of drops in points that holds the intervals of all rows, and the classes around zero."""
    ends = [(r["drop_low"], r["drop_high"]) for r in rows]
    return 1.05 * min(-3.0, *(low for low, _ in ends)), 1.05 * max(4.0, *(high for _, high in ends))


def wide(domain: tuple[float, float]) -> bool:
    """Whether an axis of drops holds a collapse."""
    return domain[1] > _WIDE


def drop_axis(domain: tuple[float, float]) -> tuple[alt.Scale, alt.Axis]:
    """Scale and ticks of an axis of drops: logarithmic away from zero where it is wide."""
    if wide(domain):
        scale = alt.Scale(type="symlog", constant=_EVEN, domain=list(domain), nice=False)
        return scale, alt.Axis(values=[-30, -10, -3, 0, 3, 10, 30, 100])
    return alt.Scale(domain=list(domain), nice=False), alt.Axis(tickCount=5)


def drop_at(value: float, domain: tuple[float, float]) -> float:
    """Where a drop lies on its axis, from 0 to 1."""
    low, high = (_even(end, domain) for end in domain)
    return (_even(value, domain) - low) / (high - low)


def drop_of(at: float, domain: tuple[float, float]) -> float:
    """The drop that lies at a place of its axis: the inverse of `drop_at`."""
    low, high = (_even(end, domain) for end in domain)
    place = low + at * (high - low)
    return math.copysign(_EVEN * math.expm1(abs(place)), place) if wide(domain) else place


def _even(value: float, domain: tuple[float, float]) -> float:
    """The scale of `drop_axis`: d3's symlog where it is wide."""
    return math.copysign(math.log1p(abs(value) / _EVEN), value) if wide(domain) else value


def log_domain(values: Sequence[float]) -> tuple[float, float]:
    """A domain with a little air around positive values, at least a factor of two wide."""
    low, high = math.log10(min(values)), math.log10(max(values))
    air = max(0.06 * (high - low), 0.15 - (high - low) / 2)
    return 10 ** (low - air), 10 ** (high + air)


_DECADES = 8  # that an axis names


def log_ticks(domain: tuple[float, float]) -> list[float]:
    """Powers of ten inside a domain, evenly some of more than eight, with round multiples of these where fewer than three fit."""
    exponents: Sequence[int] = range(math.floor(math.log10(domain[0])), math.ceil(math.log10(domain[1])) + 1)
    stride = math.ceil((len(exponents) - 2) / _DECADES)
    exponents = [exponent for exponent in exponents if stride < 2 or exponent % stride == 0]
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
        inside = [tick for tick in ticks if domain[0] <= tick <= domain[1]]
        if len(inside) >= 3:
            break
    return inside


def grid(panels: Mapping[str, Sequence[Panel]], title: str, subtitle: Sequence[str]) -> alt.VConcatChart:
    """Rows of panels by their title (may be empty), under one title and the lines that say how to read them."""
    rows = [
        alt.hconcat(*row, spacing=40, **({"title": alt.TitleParams(name, fontSize=13, anchor="start", offset=8)} if name else {}))
        for name, row in panels.items()
    ]
    heading = alt.TitleParams(title, subtitle=list(subtitle), anchor="start", offset=14)
    return (
        alt.vconcat(*rows, spacing=28, title=heading)
        .configure(font=FONT, background="white", padding=12, aria=False)  # a picture has an alt, and a caption
        .configure_view(stroke=None)
        .configure_axis(
            labelFontSize=LABEL_SIZE, titleFontSize=12, titleFontWeight="normal", gridColor="#e6eaee", domainColor=GREY,
            tickColor=GREY, titlePadding=10, labelColor=INK, titleColor=INK, labelLimit=260,
        )
        .configure_title(fontSize=15, subtitleFontSize=12, subtitleColor=GREY, subtitlePadding=6, color=INK)
    )  # fmt: skip


def panel_title(text: str) -> alt.TitleParams:
    """Title of one panel."""
    return alt.TitleParams(text, fontSize=12, fontWeight="normal", anchor="start", frame="group", offset=6)


def present(rows: Sequence[Row], what: str) -> None:
    """Refuse to draw what was not measured. Raises ArtifactError."""
    if not rows:
        raise ArtifactError(
            f"no {what} in the tables, so there is nothing to draw; run what measures it, or leave this figure out"
        )


def wrapped(sentences: Iterable[str], letters: int = _LETTERS) -> list[str]:
    """Lines of a subtitle, of at most as many letters."""
    return [line for sentence in sentences for line in textwrap.wrap(sentence, letters)]


def nothing(title: str, reasons: Iterable[str]) -> alt.VConcatChart:
    """A figure of measurements that have no place in it, such as those of models that collapsed: its title, and why."""
    words = alt.Chart(alt.Data(values=[{}])).mark_text(align="left", fontSize=12, color=GREY)
    panel = alt.layer(words.encode(x=alt.value(0), text=alt.value("Nothing to show."))).properties(width=_BREADTH, height=20)
    return grid({"": [panel]}, title, wrapped(reasons))


def render(chart: alt.TopLevelMixin, form: Literal["svg", "pdf", "png"]) -> bytes:
    """SVG, PDF (fonts embedded) or PNG (twice the pixels), drawn without a browser."""
    buffer = io.StringIO() if form == "svg" else io.BytesIO()
    chart.save(buffer, format=form, scale_factor=2 if form == "png" else 1)
    content = buffer.getvalue()
    return content if isinstance(content, bytes) else _short(_roomy(content)).encode()


def _short(svg: str) -> str:
    """An SVG whose paths and places have two decimals: no eye tells a hundredth of a pixel, and they are most of its bytes."""
    placed = re.compile(r' (?:d|transform)="[^"]*"')
    return placed.sub(lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg)


_LEFT, _RIGHT = 24, 1.15


def _roomy(svg: str) -> str:
    """An SVG with room at both sides: who shows it without the fonts that it was measured with draws wider letters."""

    def root(found: re.Match[str]) -> str:
        width, height = float(found[1]), float(found[2])
        wide = _LEFT + _RIGHT * width
        return f'width="{wide:g}" height="{height:g}" viewBox="{-_LEFT} 0 {wide:g} {height:g}" style="background: white"'

    roomy, count = re.subn(r'width="([\d.]+)" height="([\d.]+)" viewBox="0 0 [\d.]+ [\d.]+"', root, svg, count=1)
    if not count:
        raise ValueError("an SVG without width, height and viewBox")
    return roomy
