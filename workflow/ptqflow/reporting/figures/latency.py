"""Throughput of prefill and decode against batch size: what a quantized variant costs or saves at run time."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import pyarrow as pa

from ptqflow.checkpoints.registry import FAKE
from ptqflow.reporting import theme

TABLES = ("latency",)
_WIDTH, _HEIGHT = 230, 240
_WHERE = ("platform", "model", "engine")
_WHAT = ("phase", "prompt_tokens", "new_tokens")


def chart(tables: Mapping[str, pa.Table]) -> alt.TopLevelMixin:
    """One row of panels per platform, model and engine; one panel per phase and length of prompt; one line per variant."""
    table = tables["latency"].to_pylist()
    theme.present(table, "timings")
    rows = [_row(r) | {"name": _name(r, table)} for r in table]
    names = list(dict.fromkeys(r["name"] for r in rows))
    columns = sorted({tuple(r[c] for c in _WHAT) for r in rows}, key=lambda c: (c[0] != "prefill", c[1:]))
    panels = {}
    for where in dict.fromkeys(tuple(r[c] for c in _WHERE) for r in rows):
        group = [r for r in rows if tuple(r[c] for c in _WHERE) == where]
        platform, model, engine = where
        cells = [(column, [r for r in group if tuple(r[c] for c in _WHAT) == column]) for column in columns]
        panels[f"{model} on {platform}, {engine}"] = [
            _panel(cell, f"{phase}, {_tokens(phase, prompt, new)}", names) for (phase, prompt, new), cell in cells if cell
        ]
    subtitle = [
        "Tokens per second over all sequences (higher is better) at the median time; bars span all repetitions. Logarithmic axes."
    ]
    return theme.grid(panels, "Throughput against batch size", subtitle)


def _name(row: dict[str, Any], table: list[dict[str, Any]]) -> str:
    """A simulation is called one: its time is no speed of the recipe."""
    return f"{row['recipe']} (emulated)" if row["form"] == FAKE else theme.label(row, table)


def _tokens(phase: str, prompt: int, new: int) -> str:
    return f"{prompt} prompt tokens" if phase == "prefill" else f"{new} new after {prompt} prompt tokens"


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the throughput of its slowest and fastest repetition."""
    tokens = row["tokens_per_second"] * row["seconds_median"]
    return row | {"low": tokens / row["seconds_max"], "high": tokens / row["seconds_min"]}


def _panel(rows: list[dict[str, Any]], title: str, names: list[str]) -> theme.Panel:
    domain = theme.log_domain([r[end] for r in rows for end in ("low", "high")])
    batches = sorted({r["batch_size"] for r in rows})
    last = {r["name"]: r for r in sorted(rows, key=lambda r: r["batch_size"])}
    heights = theme.spread_on([r["tokens_per_second"] for r in last.values()], domain, _HEIGHT, log=True)
    ends = [r | {"height": height} for r, height in zip(last.values(), heights, strict=True)]
    scale = alt.Scale(type="log", domain=list(domain), nice=False)
    x = alt.X(
        "batch_size:Q", title="batch size (sequences)",
        scale=alt.Scale(type="log", base=2, domain=[batches[0] / 1.1, batches[-1] * 1.1], nice=False),
        axis=alt.Axis(values=batches, format="d", grid=False),
    )  # fmt: skip
    y = alt.Y(
        "tokens_per_second:Q", title="tokens per second", scale=scale, axis=alt.Axis(values=theme.log_ticks(domain), format="~s")
    )
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=theme.colour(names))
    bars = base.mark_rule(strokeWidth=1.5, clip=True).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q")
    lines = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=theme.dash(names))
    points = base.mark_point(filled=True, size=24, opacity=1).encode(y=y)
    text = (
        alt.Chart(alt.Data(values=ends))
        .mark_text(align="left", dx=8, fontSize=theme.LABEL_SIZE)
        .encode(x=x, y=alt.Y("height:Q", scale=scale), text="name:N", color=theme.colour(names))
    )
    return alt.layer(lines, bars, points, text).properties(width=_WIDTH, height=_HEIGHT, title=theme.panel_title(title))
