"""Relative error of each kind of linear by recipe: where in a block a recipe loses the model."""

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

import altair as alt
import pyarrow as pa

from ptqflow.reporting import theme
from ptqflow.reporting.layer_error import BLOCK

TABLES = ("layer_error",)
_CELL, _ROW = 66, 22
_TITLE = "Error by linear"


def chart(tables: Mapping[str, pa.Table]) -> alt.TopLevelMixin:
    """One heat map per platform and model: recipes by linears, the median over blocks of the output's relative error."""
    found = tables["layer_error"].to_pylist()
    theme.present(found, "errors of linears")
    rows = [r for r in found if r["module"] != BLOCK]
    if not rows:
        return theme.nothing(_TITLE, ["No recipe quantizes the weights of a linear."])
    quantized = len(rows)
    rows = [r for r in rows if r["output_error"] is not None]
    if not rows:
        return theme.nothing(_TITLE, ["No errors of outputs were measured (layer_errors: false)."])
    table = [r for r in rows if math.isfinite(r["output_error"])]
    linears = list(dict.fromkeys(r["module"] for r in table))
    cells: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = {}
    for r in table:
        place = cells.setdefault((r["platform"], r["model"]), {})
        place.setdefault((r["recipe"], r["module"]), []).append(r["output_error"])
    middle = {place: {who: median(errors) for who, errors in found.items()} for place, found in cells.items()}
    positive = [value for found in middle.values() for value in found.values() if value > 0]
    if not positive:
        return theme.nothing(_TITLE, [f"The errors of all {len(rows)} linears are zero or not finite."])
    domain = (min(positive), max(positive))
    panels = {f"{model} on {platform}": [_panel(found, linears, domain)] for (platform, model), found in middle.items()}
    subtitle = [
        "Median over blocks of |XW - X'W'|² / |XW|² on the calibration set; lower (lighter) is better. Logarithmic colours."
    ]
    if len(table) < len(rows):
        subtitle.append(f"Left out: {len(rows) - len(table)} errors that are not finite.")
    if len(rows) < quantized:
        subtitle.append(f"Not measured (layer_errors: false): {quantized - len(rows)} linears.")
    return theme.grid(panels, _TITLE, subtitle)


def _panel(found: Mapping[tuple[str, str], float], linears: list[str], domain: tuple[float, float]) -> theme.Panel:
    rows = [_cell(recipe, linear, error, domain) for (recipe, linear), error in found.items()]
    recipes = list(dict.fromkeys(recipe for recipe, _ in found))
    x = alt.X("linear:N", sort=linears, title=None, axis=alt.Axis(orient="top", labelAngle=0, ticks=False, domain=False))
    y = alt.Y("recipe:N", sort=recipes, title=None, axis=alt.Axis(ticks=False, domain=False))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y)
    squares = base.mark_rect(stroke="white").encode(color=alt.Color("depth:Q", legend=None, scale=theme.HEAT))
    ink = alt.condition("datum.depth > 0.55", alt.value("white"), alt.value(theme.INK))
    text = base.mark_text(fontSize=theme.LABEL_SIZE - 1).encode(text="text:N", color=ink)
    return alt.layer(squares, text).properties(width=_CELL * len(linears), height=_ROW * len(recipes))


def _cell(recipe: str, linear: str, error: float, domain: tuple[float, float]) -> dict[str, Any]:
    """A square, with its place between the smallest and the largest error of the figure, from 0 to 1."""
    low, high = map(math.log, domain)
    depth = (math.log(error) - low) / (high - low) if error > 0 and high > low else 0.0
    return {"recipe": recipe, "linear": linear, "depth": depth, "text": f"{error:.1e}"}
