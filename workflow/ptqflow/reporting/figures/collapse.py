"""Symptoms of collapse by recipe and task: how many completions loop, are cut, think on or say nothing, and how long they are."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import pyarrow as pa

from ptqflow.reporting import theme
from ptqflow.reporting.collapse import SYMPTOMS

TABLES = ("collapse",)
_WIDTH, _ROW = 150, 16
_WHERE = ("platform", "model", "engine", "task")


def chart(tables: Mapping[str, pa.Table]) -> alt.TopLevelMixin:
    """One row of panels per platform, model, engine and task; one panel per symptom that occurs can, and one of length."""
    table = tables["collapse"].to_pylist()
    theme.present(table, "generated completions")
    rows = [r | {"name": theme.label(r, table)} for r in table]
    names = list(dict.fromkeys(r["name"] for r in rows))
    panels = {}
    for where in dict.fromkeys(tuple(r[c] for c in _WHERE) for r in rows):
        group = [r for r in rows if tuple(r[c] for c in _WHERE) == where]
        platform, model, engine, task = where
        measured = {name: said for name, said in SYMPTOMS.items() if any(r[name] is not None for r in group)}
        shown = [
            _panel(group, name, f"{said} (%)", names, 100.0, 100.0, first=not i)
            for i, (name, said) in enumerate(measured.items())
        ]
        longest = max(r["tokens"] for r in group)
        panels[f"{task}: {model} on {platform}, {engine}"] = [
            *shown, _panel(group, "tokens", "tokens of a completion", names, 1.0, longest, first=not shown)
        ]  # fmt: skip
    subtitle = ["Share of completions that show each symptom; what is filled is more than the baseline's noise."]
    return theme.grid(panels, "Collapse", subtitle)


def _panel(
    group: list[dict[str, Any]], field: str, title: str, names: list[str], times: float, longest: float, first: bool
) -> theme.Panel:
    signs = {"tokens": "longer"} | SYMPTOMS
    rows = [
        {"name": r["name"], "value": times * r[field], "sign": signs[field] in (r["signs"] or "").split(", ")}
        for r in group
        if r[field] is not None
    ]
    y = alt.Y(
        "name:N", sort=names, scale=alt.Scale(domain=names), title=None, axis=alt.Axis(labels=first, ticks=False, domain=False)
    )
    x = alt.X("value:Q", title=None, scale=alt.Scale(domain=[0, longest], nice=False), axis=alt.Axis(tickCount=2))
    bars = alt.Chart(alt.Data(values=rows)).mark_bar(strokeWidth=1.5, size=_ROW - 6)
    fill = alt.condition("datum.sign", theme.colour(names), alt.value("white"))
    drawn = bars.encode(x=x, y=y, fill=fill, stroke=theme.colour(names))
    return drawn.properties(width=_WIDTH, height=_ROW * len(names), title=theme.panel_title(title))
