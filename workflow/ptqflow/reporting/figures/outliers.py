"""How far the largest channel of a linear's input stands out of the median one, by depth: what is hard to round."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import pyarrow as pa

from ptqflow.reporting import by_depth, theme

TABLES = ("outliers",)
_TITLE = "Outliers of activations by depth"
_AXIS = ("ratio", "largest / median", "~g")


def chart(tables: Mapping[str, pa.Table]) -> alt.TopLevelMixin:
    """One row of panels per platform and model, one panel per rotation and calibration set, one line per site, logarithmic."""
    table = tables["outliers"].to_pylist()
    rows = [r | {"name": r["site"]} for r in table if r["ratio"] is not None]
    theme.present(table, "outliers of activations")
    if not rows:
        return theme.nothing(_TITLE, ["In every input the median channel is zero."])
    sites = list(dict.fromkeys(r["name"] for r in rows))
    domain = theme.log_domain([r["ratio"] for r in rows])
    panels: dict[str, dict[tuple[str | None, str], list[dict[str, Any]]]] = {}
    for r in rows:
        panel = panels.setdefault(f"{r['model']} on {r['platform']}", {})
        panel.setdefault((r["rotation"], r["calibration"]), []).append(r)
    drawn = {
        name: [by_depth.panel(of, _title(*who), _AXIS, sites, domain) for who, of in found.items()]
        for name, found in panels.items()
    }
    subtitle = ["Largest over channels of max |x|, divided by the median over channels; 1 is flat. Logarithmic axis."]
    if len(rows) < len(table):
        subtitle.append(f"Not shown: {len(table) - len(rows)} inputs whose median channel is zero.")
    return theme.grid(drawn, _TITLE, subtitle)


def _title(rotation: str | None, calibration: str) -> str:
    return f"{calibration}, rotated by {rotation}" if rotation else calibration
