"""Drop against the baseline with its interval, by recipe and task, beside what the baseline itself is uncertain by."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import pyarrow as pa

from ptqflow.reporting import theme
from ptqflow.reporting.accuracy_table import significant
from ptqflow.reporting.render import number
from ptqflow.reporting.runs import AVERAGE, PERPLEXITY
from ptqflow.reporting.variants import BASELINE

TABLES = ("accuracy",)
_WHERE = ("platform", "model", "engine")
_WIDTH, _ROW = 190, 24
_TITLE = "Drop in accuracy against the baseline"


def chart(tables: Mapping[str, pa.Table]) -> alt.TopLevelMixin:
    """One row of panels per platform, model and engine, one panel per accuracy task and their average."""
    rows = [r for r in tables["accuracy"].to_pylist() if r["metric"] != PERPLEXITY]
    drops = [
        r | {"name": theme.label(r, rows), "clear": significant(r), "text": number(r["drop"], 1)}
        for r in rows
        if r["drop"] is not None
    ]
    theme.present([r for r in rows if r["recipe"] != BASELINE], "scores of a recipe")
    averages = [r for r in rows if r["task"] == AVERAGE and r["recipe"] != BASELINE and r["drop"] is None]
    missing = [f"{theme.label(r, rows)} ({r['model']} on {r['platform']}): {r['note']}." for r in averages]
    if not drops:
        return theme.nothing(_TITLE, missing)
    tasks = [t for t in dict.fromkeys(r["task"] for r in rows) if t != AVERAGE]
    columns = [*tasks, AVERAGE] if len(tasks) > 1 else tasks
    names = list(dict.fromkeys(r["name"] for r in drops))
    domain = theme.drop_domain(drops)
    panels = {}
    several = len({r["engine"] for r in rows}) > 1
    for place in dict.fromkeys(tuple(r[c] for c in _WHERE) for r in drops):
        group, shown = ([r for r in part if tuple(r[c] for c in _WHERE) == place] for part in (rows, drops))
        platform, model, engine = place
        panels[f"{model} on {platform}" + (f", {engine}" if several else "")] = [
            _panel([r for r in shown if r["task"] == task], _band(group, task), task, names, domain, first=not i)
            for i, task in enumerate(columns)
        ]
    subtitle = [
        "Points lost (right is worse) with the paired 95 % interval; filled where the drop differs from zero (5 %, Holm).",
        "Grey band: the 95 % interval of the baseline's own score. Dashed lines: lossless up to 1 point, risky from 3.",
    ]
    if theme.wide(domain):
        subtitle.append(theme.WIDE_AXIS)
    return theme.grid(panels, _TITLE, [*subtitle, *theme.wrapped(missing)])


def _band(group: list[dict[str, Any]], task: str) -> dict[str, float] | None:
    """The baseline's interval as drops: how far its score could lie above or below itself."""
    for row in group:
        if row["recipe"] == BASELINE and row["task"] == task and row["score"] is not None:
            return {"low": row["score"] - row["score_high"], "high": row["score"] - row["score_low"]}
    return None


def _panel(
    rows: list[dict[str, Any]],
    band: dict[str, float] | None,
    title: str,
    names: list[str],
    domain: tuple[float, float],
    first: bool,
) -> theme.Panel:
    scale, ticks = theme.drop_axis(domain)
    x = alt.X("drop:Q", title="drop (points)", scale=scale, axis=ticks)
    y = alt.Y(
        "name:N", sort=names, scale=alt.Scale(domain=names), title=None, axis=alt.Axis(labels=first, ticks=False, domain=False)
    )
    layers: list[alt.Chart] = []
    if band is not None:
        data = alt.Chart(alt.Data(values=[band]))
        layers.append(data.mark_rect(color=theme.BAND, clip=True).encode(x=alt.X("low:Q", scale=scale), x2="high:Q"))
    limits = alt.Chart(alt.Data(values=[{"at": 1}, {"at": 3}]))
    layers.append(limits.mark_rule(color=theme.GREY, strokeDash=[3, 3], strokeWidth=1).encode(x=alt.X("at:Q", scale=scale)))
    zero = alt.Chart(alt.Data(values=[{"at": 0}]))
    layers.append(zero.mark_rule(color=theme.INK, strokeWidth=1).encode(x=alt.X("at:Q", scale=scale)))
    base = alt.Chart(alt.Data(values=rows)).encode(y=y, color=theme.colour(names))
    layers.append(base.mark_rule(strokeWidth=2).encode(x=alt.X("drop_low:Q", scale=scale), x2="drop_high:Q"))
    fill = alt.condition("datum.clear", theme.colour(names), alt.value("white"))
    layers.append(base.mark_point(size=55, strokeWidth=2, opacity=1).encode(x=x, fill=fill))
    text = base.mark_text(align="right", fontSize=theme.LABEL_SIZE)
    layers.append(text.encode(x=alt.value(_WIDTH + 36), text="text:N", color=alt.value(theme.INK)))
    return alt.layer(*layers).properties(width=_WIDTH, height=_ROW * len(names), title=theme.panel_title(title))
