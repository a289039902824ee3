"""Where the time of prefill and decode goes, part by part: why integers gain, or do not. Emulations stand apart."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import altair as alt
import pyarrow as pa

from ptqflow.reporting import theme
from ptqflow.reporting.latency_parts import ORDER

TABLES = ("latency_parts",)
_WIDTH = 260
_WHERE = ("platform", "model", "engine")
_WHAT = ("batch_size", "prompt_tokens")


def chart(tables: Mapping[str, pa.Table]) -> alt.TopLevelMixin:
    """One row of panels per phase, platform, model and engine, emulations in rows of their own; one bar per variant."""
    table = tables["latency_parts"].to_pylist()
    theme.present(table, "parts of timings")
    rows = [r | {"name": theme.label(r, table), "ms": 1000 * r["seconds"], "order": ORDER.index(r["part"])} for r in table]
    panels = {}
    for where in dict.fromkeys(tuple(r[c] for c in _WHERE) for r in rows):
        here = [r for r in rows if tuple(r[c] for c in _WHERE) == where]
        platform, model, engine = where
        for emulated, phase in product((False, True), ("prefill", "decode")):
            group = [r for r in here if (r["form"] == "fake") == emulated and r["phase"] == phase]
            if columns := sorted({tuple(r[c] for c in _WHAT) for r in group}):
                cells = [([r for r in group if tuple(r[c] for c in _WHAT) == column], column) for column in columns]
                title = f"{phase} of {model} on {platform}, {engine}" + (", emulated: not the recipe's time" if emulated else "")
                panels[title] = [_panel(cell, f"{batch} x {prompt} tokens") for cell, (batch, prompt) in cells]
    subtitle = ["Median milliseconds of a phase (decode: of all new tokens), divided as in one profiled run; fewer is better."]
    return theme.grid(panels, "Where the time goes", subtitle)


def _panel(rows: list[dict[str, Any]], title: str) -> theme.Panel:
    colours = alt.Scale(domain=list(ORDER), range=[*theme.PALETTE[: len(ORDER) - 1], "#999999"])
    bars = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("ms:Q", title="milliseconds"),
            y=alt.Y("name:N", title=None, sort=None),
            color=alt.Color("part:N", scale=colours, legend=alt.Legend(title=None, orient="bottom")),
            order="order:Q",
        )
    )
    names = {r["name"] for r in rows}
    return bars.properties(width=_WIDTH, height=18 * len(names) + 10, title=theme.panel_title(title))
