"""Losses of the methods that learn, by step: whether every block came down, and how far."""

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

import altair as alt
import pyarrow as pa

from ptqflow.reporting import theme
from ptqflow.reporting.learning import before_rescue, curves, thinned

TABLES = ("learning", "rescue")
_WIDTH, _HEIGHT = 330, 230
_TITLE = "Learning by step"


def chart(tables: Mapping[str, pa.Table]) -> alt.TopLevelMixin:
    """One panel per platform (rows) and model (columns): by recipe the median block's curve, over the band of all blocks."""
    table = tables["learning"].to_pylist()
    theme.present(table, "losses of methods that learn")
    found = curves(table)
    rows = [row for place, curve in found.items() for row in _relative(place, thinned(curve))]
    if not rows:
        recipes = ", ".join(dict.fromkeys(r["recipe"] for r in table))
        return theme.nothing(_TITLE, [f"The losses of {recipes} are zero or not finite."])
    names = list(dict.fromkeys(r["name"] for r in rows))
    domain = theme.log_domain([r["ratio"] for r in rows])
    panels: dict[str, list[theme.Panel]] = {}
    for platform, model in dict.fromkeys((r["platform"], r["model"]) for r in rows):
        here = [r for r in rows if (r["platform"], r["model"]) == (platform, model)]
        panels.setdefault(f"Platform {platform}", []).append(_panel(_joined(here), model, names, domain))
    subtitle = [
        "Loss over the first one (held out, where a recipe holds some out); lower is better. Logarithmic axis.",
        "Line: the median block. Band: from the best to the worst block.",
        *before_rescue(tables["rescue"].to_pylist()),
    ]
    return theme.grid(panels, _TITLE, subtitle)


def _relative(place: tuple[str, str, str, int], curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    platform, model, recipe, _ = place
    first = curve[0]["value"]
    usable = [r for r in curve if first > 0 and math.isfinite(r["value"]) and r["value"] > 0]
    who = {"platform": platform, "model": model, "name": recipe}
    return [who | {"step": r["step"], "ratio": r["value"] / first} for r in usable]


def _joined(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each recipe and step the median, least and largest over blocks."""
    ratios: dict[tuple[str, int], list[float]] = {}
    for r in rows:
        ratios.setdefault((r["name"], r["step"]), []).append(r["ratio"])
    return [
        {"name": name, "step": step, "median": median(found), "low": min(found), "high": max(found)}
        for (name, step), found in sorted(ratios.items())
    ]


def _panel(rows: list[dict[str, Any]], title: str, names: list[str], domain: tuple[float, float]) -> theme.Panel:
    scale = alt.Scale(type="log", domain=list(domain), nice=False)
    last = {r["name"]: r for r in rows}
    heights = theme.spread_on([r["median"] for r in last.values()], domain, _HEIGHT, log=True)
    ends = [r | {"height": height} for r, height in zip(last.values(), heights, strict=True)]
    x = alt.X("step:Q", title="optimization step", axis=alt.Axis(format="d", grid=False, tickCount=6))
    y = alt.Y("median:Q", title="loss / first loss", scale=scale, axis=alt.Axis(values=theme.log_ticks(domain), format=".2~g"))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=theme.colour(names))
    band = base.mark_area(opacity=0.15).encode(
        y=alt.Y("low:Q", scale=scale), y2="high:Q", fill=theme.colour(names), color=alt.value("transparent")
    )
    lines = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=theme.dash(names))
    text = (
        alt.Chart(alt.Data(values=ends))
        .mark_text(align="left", dx=8, fontSize=theme.LABEL_SIZE)
        .encode(x=x, y=alt.Y("height:Q", scale=scale), text="name:N", color=theme.colour(names))
    )
    return alt.layer(band, lines, text).properties(width=_WIDTH, height=_HEIGHT, title=theme.panel_title(title))
