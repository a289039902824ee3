"""Drop against size and speed: what each byte buys, and which variants nothing else beats."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pyarrow as pa

from ptqflow.checkpoints.registry import FAKE
from ptqflow.reporting import theme
from ptqflow.reporting.frontier import frontier
from ptqflow.reporting.render import speed
from ptqflow.reporting.variants import BASELINE, FEW

TABLES = ("answer",)
_WIDTH, _HEIGHT, _MARGIN = 520, 300, 20
_TITLE = "Drop against size and speed"
_LETTER, _LINE = 6.3, theme.LABEL_SIZE + 3  # pixels of a label: of a letter on average, and from one to the next below
_AWAY = 26  # pixels from a mark to its label
_LARGEST, _UNTIMED = 420, 60  # areas of marks in square pixels
Row = dict[str, Any]


def chart(tables: Mapping[str, pa.Table]) -> alt.TopLevelMixin:
    """One panel per platform (rows) and model (columns), one mark per variant, the unquantized model among them."""
    table = tables["answer"].to_pylist()
    placed = [(r, _drawn(r, table)) for r in table]
    rows = [row for _, row in placed if row is not None]
    theme.present([r for r in table if r["recipe"] != BASELINE], "recipes")
    missing = [r for r, row in placed if row is None]
    if all(r["recipe"] == BASELINE for r in rows):
        return theme.nothing(_TITLE, [f"{r['recipe']} ({r['model']} on {r['platform']}): {_lacks(r)}." for r in missing])
    fastest = max((r["tokens_per_second"] or 0.0 for r in rows), default=0.0)
    for row in rows:
        row["area"] = _LARGEST * row["tokens_per_second"] / fastest if row["tokens_per_second"] else _UNTIMED
    for place in dict.fromkeys((r["platform"], r["model"]) for r in rows):
        _name([r for r in rows if (r["platform"], r["model"]) == place])
    names = list(dict.fromkeys(r["name"] for r in rows if r["named"]))
    domain = theme.drop_domain(rows)
    panels = {}
    for platform in dict.fromkeys(r["platform"] for r in rows):
        here = [r for r in rows if r["platform"] == platform]
        panels[f"Platform {platform}"] = [
            _panel([r for r in here if r["model"] == model], names, domain) for model in dict.fromkeys(r["model"] for r in here)
        ]
    subtitle = [
        "Points lost on average (down is better) with the paired 95 % interval. Size: linears of the blocks at nominal bits with",
        "scales and zero points; the unquantized model's as stored. Line: the least drop to be had at a size, as estimated.",
    ]
    timed = "of drop, size and speed (speed counts where all were timed)" if fastest else "of drop and size"
    subtitle.append(f"Filled: on the frontier {timed}. Dashed: the drop that decide allows.")
    if fastest:
        subtitle.append("Circles: area by tokens per second of decoding, at the fastest point. Diamonds: no real form was timed.")
    if not all(r["named"] for r in rows):
        subtitle.append("Grey: recipes that lose no less than a named one of the same format (bits and groups).")
    if theme.wide(domain):
        subtitle.append(theme.WIDE_AXIS)
    if left := list(dict.fromkeys(r["recipe"] for r in missing)):
        subtitle.append(f"Not shown, without a drop or a size: {', '.join(left)}.")
    return theme.grid(panels, _TITLE, subtitle)


def _lacks(row: Mapping[str, Any]) -> str:
    """Why a row has no place."""
    known = row["score"] is not None if row["recipe"] == BASELINE else row["drop"] is not None
    return "its packed size is not known" if known else row["reasons"]


def _drawn(row: Mapping[str, Any], table: Sequence[Mapping[str, Any]]) -> Row | None:
    """A row with its `name`, `text` and `size` in MiB; the unquantized model loses nothing. None: it has no place."""
    none = dict.fromkeys(("drop", "drop_low", "drop_high"), 0.0)
    placed = {**row} | (none if row["recipe"] == BASELINE and row["score"] is not None else {})
    if placed["drop"] is None or not placed["packed_bytes"]:
        return None
    same = [r for r in table if all(r[c] == row[c] for c in ("platform", "model", "recipe"))]
    name = theme.label(row, same)
    text = f"{name}, emulation" if row["form"] == FAKE else name
    if row["tokens_per_second"]:
        text += f", {speed(row['tokens_per_second'])} tokens/s"
    return placed | {"name": name, "text": text, "size": row["packed_bytes"] / 2**20}


def _name(rows: Sequence[Row]) -> None:
    """Which rows of a panel are `named`: of many, those on the frontier, and what loses least in each format."""
    least: dict[str | None, Row] = {}
    for row in sorted(rows, key=lambda row: row["drop"]):
        least.setdefault(row["format"], row)
    few = sum(row["recipe"] != BASELINE for row in rows) <= FEW
    for row in rows:
        row["named"] = few or row["frontier"] or row is least[row["format"]]


def _panel(everything: list[Row], names: list[str], domain: tuple[float, float]) -> theme.Panel:
    rows, others = ([row for row in everything if row["named"] == named] for named in (True, False))
    height = max(_HEIGHT, _LINE * (len(rows) + 2))
    (left, right), labels = _labels(rows, domain, height)
    x_scale = alt.Scale(domain=[left, right], nice=False, zero=False)
    y_scale, ticks = theme.drop_axis(domain)
    x = alt.X("size:Q", title="packed weights (MiB)", scale=x_scale, axis=alt.Axis(tickCount=6))
    y = alt.Y("drop:Q", title="drop (points)", scale=y_scale, axis=ticks)
    bounds = alt.Chart(alt.Data(values=[{"at": limit} for limit in sorted({r["max_drop"] for r in rows})]))
    layers: list[alt.Chart] = [
        bounds.mark_rule(color=theme.GREY, strokeDash=[3, 3]).encode(y=alt.Y("at:Q", scale=y_scale)),
        alt.Chart(alt.Data(values=steps(rows, right)))
        .mark_line(interpolate="step-after", color=theme.GREY, strokeWidth=1.5, clip=True)
        .encode(x=x, y=y),
    ]
    if others:
        layers.append(alt.Chart(alt.Data(values=others)).mark_circle(color=theme.GREY, size=25, opacity=0.5).encode(x=x, y=y))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=theme.colour(names))
    bars = base.mark_rule(strokeWidth=2, opacity=0.6)
    layers.append(bars.encode(y=alt.Y("drop_low:Q", scale=y_scale), y2="drop_high:Q"))
    leaders = alt.Chart(alt.Data(values=labels)).mark_rule(strokeWidth=0.8, opacity=0.7)
    layers.append(leaders.encode(x=x, y=y, x2="label_x:Q", y2="label_y:Q", color=theme.colour(names)))
    for shape, timed in (("circle", True), ("diamond", False)):
        marks = alt.Chart(alt.Data(values=[r for r in rows if bool(r["tokens_per_second"]) == timed]))
        fill = alt.condition("datum.frontier", theme.colour(names), alt.value("white"))
        drawn = marks.mark_point(shape=shape, strokeWidth=2, opacity=1)
        layers.append(drawn.encode(x=x, y=y, size=alt.Size("area:Q", scale=None), stroke=theme.colour(names), fill=fill))
    texts = alt.Chart(alt.Data(values=labels)).encode(
        x=alt.X("label_x:Q", scale=x_scale), y=alt.Y("label_y:Q", scale=y_scale), text="text:N"
    )
    words: Row = {"align": "left", "dx": 3, "fontSize": theme.LABEL_SIZE}
    layers.append(texts.mark_text(**words, stroke="white", strokeWidth=5))  # lines do not strike a label through
    layers.append(texts.mark_text(**words).encode(color=theme.colour(names)))
    return alt.layer(*layers).properties(width=_WIDTH, height=height, title=theme.panel_title(rows[0]["model"]))


def steps(rows: Sequence[Row], right: float) -> list[Row]:
    """Corners of the least drop to be had at each size, from the smallest variant to the `right` end of the axis."""
    on = frontier([(r["drop"], r["packed_bytes"], None) for r in rows])
    corners = sorted({(r["size"], r["drop"]) for r, best in zip(rows, on, strict=True) if best})
    return [{"size": size, "drop": drop} for size, drop in [*corners, (right, corners[-1][1])]]


def _labels(rows: list[Row], domain: tuple[float, float], height: float) -> tuple[tuple[float, float], list[Row]]:
    """The axis of sizes with room for labels, and the rows with the left middle of their labels, `label_x` and `label_y`.

    Marks stay at their size; the labels of those that stand close share a column right of them, spread over the height.
    """
    widths = {id(r): _LETTER * len(r["text"]) + _AWAY for r in rows}
    sizes = [r["size"] for r in rows]
    span = max(sizes) - min(sizes) or 0.2 * max(sizes)
    pixel = span / (_WIDTH - 2 * _MARGIN - min(max(widths.values()), 0.6 * _WIDTH))
    left = min(sizes) - _MARGIN * pixel
    columns: list[list[Row]] = []
    for row in sorted(rows, key=lambda r: r["size"]):
        room = max((widths[id(r)] for r in columns[-1]), default=0) if columns else 0
        if columns and (row["size"] - columns[-1][-1]["size"]) / pixel < room:
            columns[-1].append(row)
        else:
            columns.append([row])
    placed = []
    for column in columns:
        half = _LINE / 2 / height
        at = theme.spread([theme.drop_at(r["drop"], domain) for r in column], _LINE / height, half, 1 - half)
        label_x = column[-1]["size"] + (_AWAY - 3) * pixel
        placed += [r | {"label_x": label_x, "label_y": theme.drop_of(y, domain)} for r, y in zip(column, at, strict=True)]
    return (left, left + _WIDTH * pixel), placed
