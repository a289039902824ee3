"""Mean squared error of each decoder block's output, by depth: where a recipe loses the model (source paper, Figure 1)."""

import math
from collections.abc import Mapping

import altair as alt
import pyarrow as pa

from ptqflow.reporting import by_depth, theme
from ptqflow.reporting.layer_error import BLOCK

TABLES = ("layer_error",)
_TITLE = "Error by depth"
_AXIS = ("output_mse", "mean squared error", ".0e")


def chart(tables: Mapping[str, pa.Table]) -> alt.TopLevelMixin:
    """One panel per platform (rows) and model (columns), one line per recipe, logarithmic."""
    found = [r for r in tables["layer_error"].to_pylist() if r["module"] == BLOCK]
    theme.present(found, "block errors")
    blocks = [r for r in found if r["output_mse"] is not None]
    rows = [r | {"name": r["recipe"]} for r in blocks if math.isfinite(r["output_mse"]) and r["output_mse"] > 0]
    missing = (
        [f"Not shown: {len(blocks) - len(rows)} blocks whose error is zero or not finite."] if len(rows) < len(blocks) else []
    )
    if len(blocks) < len(found):
        missing.append(f"Not measured (layer_errors: false): {len(found) - len(blocks)} blocks.")
    if not rows:
        return theme.nothing(_TITLE, missing)
    names = list(dict.fromkeys(r["name"] for r in rows))
    domain = theme.log_domain([r["output_mse"] for r in rows])
    models = list(dict.fromkeys(r["model"] for r in rows))
    panels = {}
    for platform in dict.fromkeys(r["platform"] for r in rows):
        cells = [[r for r in rows if (r["platform"], r["model"]) == (platform, model)] for model in models]
        panels[f"Platform {platform}"] = [by_depth.panel(cell, cell[0]["model"], _AXIS, names, domain) for cell in cells if cell]
    subtitle = ["Mean squared error of each block's output on the calibration set; lower is better. Logarithmic axis."]
    return theme.grid(panels, _TITLE, [*subtitle, *missing])
