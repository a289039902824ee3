"""A panel of lines by depth: what each decoder block has of something, on a logarithmic axis, each line named at its end."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from ptqflow.reporting import theme

_WIDTH, _HEIGHT = 330, 260


def panel(
    rows: Sequence[dict[str, Any]],
    title: str,
    axis: tuple[str, str, str],
    names: Sequence[str],
    domain: tuple[float, float],
) -> theme.Panel:
    """`rows` have `name`, `layer` and the value; `axis`: the value's column, its title, its format; `names`: of all panels."""
    value, said, form = axis
    last = {r["name"]: r for r in sorted(rows, key=lambda r: r["layer"])}
    heights = theme.spread_on([r[value] for r in last.values()], domain, _HEIGHT, log=True)
    ends = [{"name": r["name"], "layer": r["layer"], "height": at} for r, at in zip(last.values(), heights, strict=True)]
    shown = [{key: r[key] for key in ("name", "layer", value)} for r in rows]
    layers = sorted({r["layer"] for r in rows})
    x = alt.X(
        "layer:Q", title="decoder block",
        scale=alt.Scale(domain=[layers[0] - 0.1, layers[-1] + 0.1], nice=False),
        axis=alt.Axis(values=layers[:: math.ceil(len(layers) / 12)], format="d", grid=False),
    )  # fmt: skip
    scale = alt.Scale(type="log", domain=list(domain), nice=False)
    y = alt.Y(f"{value}:Q", title=said, scale=scale, axis=alt.Axis(values=theme.log_ticks(domain), format=form))
    base = alt.Chart(alt.Data(values=shown)).encode(x=x, y=y, color=theme.colour(names))
    lines = base.mark_line(strokeWidth=2, clip=True).encode(strokeDash=theme.dash(names))
    points = base.mark_point(filled=True, size=28, opacity=1)
    text = (
        alt.Chart(alt.Data(values=ends))
        .mark_text(align="left", dx=10, fontSize=theme.LABEL_SIZE)
        .encode(x=x, y=alt.Y("height:Q", scale=scale), text="name:N", color=theme.colour(names))
    )
    return alt.layer(lines, points, text).properties(width=_WIDTH, height=_HEIGHT, title=theme.panel_title(title))
