"""Mean squared error of each decoder block's output, by depth: where a recipe loses the model (source paper, Figure 1)."""

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import pyarrow as pa

from ptqflow.reporting import theme
from ptqflow.reporting.layer_error import BLOCK

TABLES = ("layer_error",)
_WIDTH, _HEIGHT = 330, 260


def chart(tables: Mapping[str, pa.Table]) -> alt.TopLevelMixin:
    """One panel per platform (rows) and model (columns), one line per recipe, logarithmic."""
    blocks = [r for r in tables["layer_error"].to_pylist() if r["module"] == BLOCK]
    rows = [r | {"name": r["recipe"]} for r in blocks if math.isfinite(r["output_mse"]) and r["output_mse"] > 0]
    theme.present(rows, "block errors")
    names = list(dict.fromkeys(r["name"] for r in rows))
    domain = theme.log_domain([r["output_mse"] for r in rows])
    models = list(dict.fromkeys(r["model"] for r in rows))
    panels = {}
    for platform in dict.fromkeys(r["platform"] for r in rows):
        cells = [[r for r in rows if (r["platform"], r["model"]) == (platform, model)] for model in models]
        panels[f"Platform {platform}"] = [_panel(cell, cell[0]["model"], names, domain) for cell in cells if cell]
    subtitle = ["Mean squared error of each block's output on the calibration set; lower is better. Logarithmic axis."]
    if len(rows) < len(blocks):
        subtitle.append(f"Not shown: {len(blocks) - len(rows)} blocks whose error is zero or not finite.")
    return theme.grid(panels, "Error by depth", subtitle)


def _panel(rows: list[dict[str, Any]], title: str, names: list[str], domain: tuple[float, float]) -> theme.Panel:
    last = {r["name"]: r for r in sorted(rows, key=lambda r: r["layer"])}
    heights = theme.spread_on([r["output_mse"] for r in last.values()], domain, _HEIGHT, log=True)
    ends = [r | {"height": height} for r, height in zip(last.values(), heights, strict=True)]
    layers = sorted({r["layer"] for r in rows})
    x = alt.X(
        "layer:Q", title="decoder block",
        scale=alt.Scale(domain=[layers[0] - 0.1, layers[-1] + 0.1], nice=False),
        axis=alt.Axis(values=layers[:: math.ceil(len(layers) / 12)], format="d", grid=False),
    )  # fmt: skip
    y = alt.Y(
        "output_mse:Q", title="mean squared error",
        scale=alt.Scale(type="log", domain=list(domain), nice=False),
        axis=alt.Axis(values=theme.log_ticks(domain), format=".0e"),
    )  # fmt: skip
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=theme.colour(names), strokeDash=theme.dash(names))
    lines = base.mark_line(strokeWidth=2, clip=True)
    points = base.mark_point(filled=True, size=28, opacity=1).encode(strokeDash=alt.value([1, 0]))
    text = (
        alt.Chart(alt.Data(values=ends))
        .mark_text(align="left", dx=10, fontSize=theme.LABEL_SIZE)
        .encode(x=x, y=alt.Y("height:Q", scale=alt.Scale(type="log", domain=list(domain), nice=False)), text="name:N")
        .encode(color=theme.colour(names))
    )
    return alt.layer(lines, points, text).properties(width=_WIDTH, height=_HEIGHT, title=theme.panel_title(title))
