"""How far the largest channel of a linear's input stands out of the median one, by depth: what is hard to round."""

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import pyarrow as pa

from ptqflow.reporting import theme

TABLES = ("outliers",)
_WIDTH, _HEIGHT = 330, 220


def chart(tables: Mapping[str, pa.Table]) -> alt.TopLevelMixin:
    """One row of panels per platform and model, one panel per rotation and calibration set, one line per site, logarithmic."""
    table = tables["outliers"].to_pylist()
    rows = [r for r in table if r["ratio"] is not None]
    theme.present(rows, "outliers of activations")
    sites = list(dict.fromkeys(r["site"] for r in rows))
    domain = theme.log_domain([r["ratio"] for r in rows])
    panels: dict[str, dict[tuple[str | None, str], list[dict[str, Any]]]] = {}
    for r in rows:
        panel = panels.setdefault(f"{r['model']} on {r['platform']}", {})
        panel.setdefault((r["rotation"], r["calibration"]), []).append(r)
    drawn = {name: [_panel(of, _title(*who), sites, domain) for who, of in found.items()] for name, found in panels.items()}
    subtitle = ["Largest over channels of max |x|, divided by the median over channels; 1 is flat. Logarithmic axis."]
    if len(rows) < len(table):
        subtitle.append(f"Not shown: {len(table) - len(rows)} inputs whose median channel is zero.")
    return theme.grid(drawn, "Outliers of activations by depth", subtitle)


def _title(rotation: str | None, calibration: str) -> str:
    return f"{calibration}, rotated by {rotation}" if rotation else calibration


def _panel(rows: list[dict[str, Any]], title: str, sites: list[str], domain: tuple[float, float]) -> theme.Panel:
    last = {r["site"]: r for r in sorted(rows, key=lambda r: r["layer"])}
    heights = theme.spread_on([r["ratio"] for r in last.values()], domain, _HEIGHT, log=True)
    ends = [{"site": r["site"], "layer": r["layer"], "height": h} for r, h in zip(last.values(), heights, strict=True)]
    layers = sorted({r["layer"] for r in rows})
    x = alt.X(
        "layer:Q", title="decoder block",
        scale=alt.Scale(domain=[layers[0] - 0.1, layers[-1] + 0.1], nice=False),
        axis=alt.Axis(values=layers[:: math.ceil(len(layers) / 12)], format="d", grid=False),
    )  # fmt: skip
    scale = alt.Scale(type="log", domain=list(domain), nice=False)
    y = alt.Y("ratio:Q", title="largest / median", scale=scale, axis=alt.Axis(values=theme.log_ticks(domain), format="~g"))
    colour, dash = theme.colour(sites, "site"), theme.dash(sites, "site")
    shown = [{name: r[name] for name in ("layer", "site", "ratio")} for r in rows]
    base = alt.Chart(alt.Data(values=shown)).encode(x=x, y=y, color=colour)
    lines = base.mark_line(strokeWidth=2, clip=True).encode(strokeDash=dash)
    points = base.mark_point(filled=True, size=28, opacity=1)
    text = (
        alt.Chart(alt.Data(values=ends))
        .mark_text(align="left", dx=10, fontSize=theme.LABEL_SIZE)
        .encode(x=x, y=alt.Y("height:Q", scale=scale), text="site:N", color=colour)
    )
    return alt.layer(lines, points, text).properties(width=_WIDTH, height=_HEIGHT, title=theme.panel_title(title))
