"""Average accuracy against the packed size of the weights: what each byte buys."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import pyarrow as pa

from ptqflow.reporting import theme
from ptqflow.reporting.runs import AVERAGE
from ptqflow.reporting.variants import BASELINE

TABLES = ("accuracy", "sizes")
_WIDTH, _HEIGHT = 400, 280
_LETTER = 6.3  # pixels of a letter of a name, on average
_VARIANT = ("platform", "model", "recipe", "form")


def chart(tables: Mapping[str, pa.Table]) -> alt.TopLevelMixin:
    """One panel per platform and engine (rows) and model (columns), one point per variant; the baseline is a line and a band."""
    sizes = {tuple(r[c] for c in _VARIANT): r["packed_bytes"] for r in tables["sizes"].to_pylist()}
    table = [r for r in tables["accuracy"].to_pylist() if r["task"] == AVERAGE and r["score"] is not None]
    rows = [r | {"name": theme.label(r, table), "size": sizes.get(tuple(r[c] for c in _VARIANT))} for r in table]
    points = [r | {"size": r["size"] / 2**20} for r in rows if r["size"]]
    theme.present(points, "variants with both an average and a packed size")
    baselines = {(r["platform"], r["engine"], r["model"]): r for r in rows if r["recipe"] == BASELINE}
    names = list(dict.fromkeys(r["name"] for r in points))
    models = list(dict.fromkeys(r["model"] for r in points))
    panels = {}
    several = len({r["engine"] for r in rows}) > 1
    for where in dict.fromkeys((r["platform"], r["engine"]) for r in points):
        cells = [[r for r in points if (r["platform"], r["engine"], r["model"]) == (*where, model)] for model in models]
        title = f"Platform {where[0]}" + (f", {where[1]}" if several else "")
        panels[title] = [_panel(c, baselines.get((*where, c[0]["model"])), names) for c in cells if c]
    subtitle = [
        "Average over tasks with its 95 % interval. Size: linears of the blocks at nominal bits, with scales and zero points."
    ]
    subtitle += ["Grey: the baseline and its interval. Variants of equal size are drawn side by side."]
    return theme.grid(panels, "Accuracy against size", subtitle)


def _side_by_side(rows: list[dict[str, Any]], width: float) -> list[dict[str, Any]]:
    """Rows with `x`: their size, moved by `width` within groups that would overlap."""
    moved = theme.spread([r["size"] for r in rows], width)
    return [r | {"x": x} for r, x in zip(rows, moved, strict=True)]


def _panel(rows: list[dict[str, Any]], baseline: dict[str, Any] | None, names: list[str]) -> theme.Panel:
    sizes = [r["size"] for r in rows]
    span = max(max(sizes) - min(sizes), 0.2 * max(sizes))
    longest = min((_LETTER * max(len(r["name"]) for r in rows) + 20) / _WIDTH, 0.6)  # room for a name right of the last point
    left, right = min(sizes) - 0.45 * span, max(sizes) + 1.45 * span * longest / (1 - longest)
    ends = [r[c] for r in [*rows, *([baseline] if baseline else [])] for c in ("score_low", "score_high")]
    low, high = min(ends), max(ends)
    domain = (low - 0.05 * (high - low), high + 0.05 * (high - low))
    placed = _side_by_side(rows, 0.025 * (right - left))
    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    x = alt.X(
        "x:Q",
        title="packed weights (MiB)",
        scale=alt.Scale(domain=[left, right], nice=False, zero=False),
        axis=alt.Axis(tickCount=6),
    )
    layers: list[alt.Chart] = []
    if baseline:
        data = alt.Chart(alt.Data(values=[baseline]))
        y = alt.Y("score_low:Q", scale=scale)
        layers.append(data.mark_rect(color=theme.BAND, opacity=0.7).encode(y=y, y2="score_high:Q"))
        layers.append(data.mark_rule(color=theme.GREY).encode(y=alt.Y("score:Q", scale=scale)))
        name = data.mark_text(align="left", color=theme.GREY, fontSize=theme.LABEL_SIZE)
        layers.append(name.encode(x=alt.value(_WIDTH + 5), y=alt.Y("score:Q", scale=scale), text=alt.value("baseline")))
    base = alt.Chart(alt.Data(values=placed)).encode(x=x, color=theme.colour(names))
    layers.append(base.mark_rule(strokeWidth=2).encode(y=alt.Y("score_low:Q", scale=scale), y2="score_high:Q"))
    points = base.mark_point(filled=True, size=60, opacity=1)
    layers.append(points.encode(y=alt.Y("score:Q", scale=scale, title="average accuracy (%)")))
    named = _labels(placed, (left, right), domain, baseline["score"] if baseline else None)
    labels = alt.Chart(alt.Data(values=named)).mark_text(align="left", fontSize=theme.LABEL_SIZE)
    layers.append(labels.encode(x="label_x:Q", y=alt.Y("label_y:Q", scale=scale), text="name:N", color=theme.colour(names)))
    title = theme.panel_title(rows[0]["model"])
    return alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT, title=title)


def _labels(
    rows: list[dict[str, Any]], x: tuple[float, float], y: tuple[float, float], line: float | None
) -> list[dict[str, Any]]:
    """Rows with `label_x` and `label_y`, the left middle of their names: beside the point, else below or above its interval, else
    beside it but higher or lower: the first place that is free (also of the baseline's `line`) and inside the panel.
    """

    def right(value: float) -> float:
        return (value - x[0]) / (x[1] - x[0]) * _WIDTH

    def down(value: float) -> float:
        return (y[1] - value) / (y[1] - y[0]) * _HEIGHT

    taken = [(right(r["x"]) - 4, down(r["score_high"]), right(r["x"]) + 4, down(r["score_low"])) for r in rows]
    taken += [] if line is None else [(0, down(line) - 1, _WIDTH, down(line) + 1)]
    placed = []
    for row in rows:
        width, half, at, middle = _LETTER * len(row["name"]), theme.LABEL_SIZE / 2 + 1, right(row["x"]), down(row["score"])
        over = [(at - width / 2, down(row["score_low"]) + half), (at - width / 2, down(row["score_high"]) - half)]
        beside = [
            (left, middle + step * half) for step in (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5) for left in (at + 9, at - 9 - width)
        ]
        places = [*beside[:2], *over, *beside[2:]]
        boxes = [(left, top - half, left + width, top + half) for left, top in places]
        box = next((b for b in boxes if _inside(b) and not any(_overlap(b, other) for other in taken)), boxes[0])
        taken.append(box)
        label_x, label_y = x[0] + box[0] / _WIDTH * (x[1] - x[0]), y[1] - (box[1] + half) / _HEIGHT * (y[1] - y[0])
        placed.append(row | {"label_x": label_x, "label_y": label_y})
    return placed


_Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def _inside(box: _Box) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= _WIDTH and box[3] <= _HEIGHT


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
