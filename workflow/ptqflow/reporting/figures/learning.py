"""Loss of each decoder block by step of learning, recipes beside each other (source paper, Figure 1), and condition numbers.

Recipes that differ by a switch of `numerics.switches` alone, as their names say, share a row: the healthy one and those under it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pyarrow as pa

from ptqflow.reporting import theme
from ptqflow.reporting.learning import HELD_OUT, LOSS, before_rescue, thinned

TABLES = ("learning", "rescue")
_WIDTH, _HEIGHT, _ABREAST = 190, 170, 6
_TITLE = "Learning by block"
_LINE = 150  # letters of a subtitle's line
_SWITCH = re.compile(r"-E\d+(?=-|$)")
_WHERE = ("platform", "model")
_Row = dict[str, Any]


def chart(tables: Mapping[str, pa.Table]) -> alt.TopLevelMixin:
    """Per platform, model and recipe (without its switches): one panel per block, one line per recipe; then condition numbers."""
    drawn_of = (LOSS, HELD_OUT, "condition_number")
    rows = [r for r in tables["learning"].to_pylist() if r["measure"] in drawn_of]
    theme.present(rows, "losses of learning")
    table = [r for r in rows if math.isfinite(r["value"]) and r["value"] > 0]
    losses = [r for r in table if r["measure"] != "condition_number"]
    missing = [f"Not drawn: {len(rows) - len(table)} values that are zero or not finite."] if len(table) < len(rows) else []
    if not losses:
        return theme.nothing(_TITLE, missing)
    names = list(dict.fromkeys(r["recipe"] for r in table))
    panels: dict[str, Sequence[theme.Panel]] = {}
    alike: dict[str, list[str]] = {}
    for where in dict.fromkeys((*(r[c] for c in _WHERE), _SWITCH.sub("", r["recipe"])) for r in losses):
        group = [r for r in table if (*(r[c] for c in _WHERE), _SWITCH.sub("", r["recipe"])) == where]
        shown, same = _different(group)
        for name, other in same.items():
            alike.setdefault(other, []).append(name)
        drawn = _panels([r for r in group if r["recipe"] in shown], names)
        for start in range(0, len(drawn), _ABREAST):
            title = f"{where[2]}: {where[1]} on {where[0]}" + (f", row {start // _ABREAST + 1}" if start else "")
            panels[title] = drawn[start : start + _ABREAST]
    subtitle = [
        "Mean squared error of a block's output: thin, of each step's batch; thick, of held-out sequences. Logarithmic axes."
    ]
    subtitle += [
        "Recipes that name a switch (E0, E1, ...) are this machine's arithmetic with one primitive replaced, no device's."
    ]
    subtitle += before_rescue(tables["rescue"].to_pylist())
    subtitle += missing
    repeats = (f"Not drawn: {', '.join(dict.fromkeys(names_alike))} learned as {other}." for other, names_alike in alike.items())
    subtitle += theme.wrapped(repeats, _LINE)
    return theme.grid(panels, _TITLE, subtitle)


def _different(rows: Sequence[_Row]) -> tuple[list[str], dict[str, str]]:
    """Recipes whose curves differ, and for each other one the recipe that it is alike."""
    curves = {
        name: tuple((r["layer"], r["step"], r["measure"], r["value"]) for r in rows if r["recipe"] == name)
        for name in dict.fromkeys(r["recipe"] for r in rows)
    }
    first: dict[tuple[Any, ...], str] = {}
    for name, curve in curves.items():
        first.setdefault(curve, name)
    return list(first.values()), {name: first[curve] for name, curve in curves.items() if first[curve] != name}


def _panels(rows: Sequence[_Row], names: Sequence[str]) -> list[theme.Panel]:
    losses = [r for r in rows if r["measure"] in (LOSS, HELD_OUT)]
    domain = theme.log_domain([r["value"] for r in losses])
    layers = sorted({r["layer"] for r in losses})
    panels = [_losses([r for r in losses if r["layer"] == layer], layer, names, domain, layer == layers[0]) for layer in layers]
    largest: dict[tuple[str, int], _Row] = {}
    for r in (r for r in rows if r["measure"] == "condition_number"):
        key = (r["recipe"], r["layer"])
        largest[key] = max(largest.get(key, r), r, key=lambda row: float(row["value"]))
    return [*panels, _conditions([*largest.values()], names)] if largest else panels


def _losses(rows: list[_Row], layer: int, names: Sequence[str], domain: tuple[float, float], first: bool) -> theme.Panel:
    x = alt.X("step:Q", title="step", axis=alt.Axis(tickCount=4, grid=False, format="d"))
    y = alt.Y(
        "value:Q", title="mean squared error" if first else None,
        scale=alt.Scale(type="log", domain=list(domain), nice=False),
        axis=alt.Axis(values=theme.log_ticks(domain), format=".0e", labels=first),
    )  # fmt: skip
    steps, held = (
        [r for name in names for r in thinned([r for r in rows if (r["recipe"], r["measure"]) == (name, measure)])]
        for measure in (LOSS, HELD_OUT)
    )

    def line(rows: list[_Row], width: float, opacity: float) -> alt.Chart:
        base = alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=width, opacity=opacity, clip=True)
        return base.encode(x=x, y=y, color=theme.colour(names, "recipe"), strokeDash=theme.dash(names, "recipe"))

    drawn = alt.layer(line(steps, 0.8, 0.5), line(held, 2.2, 1.0))
    return drawn.properties(width=_WIDTH, height=_HEIGHT, title=theme.panel_title(f"block {layer}"))


def _conditions(rows: list[_Row], names: Sequence[str]) -> theme.Panel:
    """The largest condition number of each block's matrices, labelled by recipe."""
    domain = theme.log_domain([r["value"] for r in rows])
    layers = sorted({r["layer"] for r in rows})
    ends = [r for r in rows if r["layer"] == layers[-1]]
    heights = theme.spread_on([r["value"] for r in ends], domain, _HEIGHT, log=True)
    labels = [r | {"height": height} for r, height in zip(ends, heights, strict=True)]
    scale = alt.Scale(type="log", domain=list(domain), nice=False)
    x = alt.X(
        "layer:Q", title="decoder block",
        scale=alt.Scale(domain=[layers[0] - 0.1, layers[-1] + 0.1], nice=False),
        axis=alt.Axis(values=layers[:: math.ceil(len(layers) / 12)], format="d", grid=False),
    )  # fmt: skip
    y = alt.Y("value:Q", title=None, scale=scale, axis=alt.Axis(values=theme.log_ticks(domain), format="~g"))
    colour = theme.colour(names, "recipe")
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=colour)
    text = alt.Chart(alt.Data(values=labels)).mark_text(align="left", dx=10, fontSize=theme.LABEL_SIZE)
    drawn = alt.layer(
        base.mark_line(strokeWidth=2, clip=True).encode(strokeDash=theme.dash(names, "recipe")),
        base.mark_point(filled=True, size=28, opacity=1),
        text.encode(x=x, y=alt.Y("height:Q", scale=scale), text="recipe:N", color=colour),
    )
    return drawn.properties(width=_WIDTH, height=_HEIGHT, title=theme.panel_title("largest condition number"))
