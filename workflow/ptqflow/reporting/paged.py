"""Of every table but the answer: the page of the report that it stands on, and what prints it for reading."""

from collections.abc import Callable, Sequence
from typing import Any

from ptqflow.reporting import (
    accuracy_table,
    collapse,
    comparison,
    cost_table,
    flips,
    latency,
    latency_parts,
    layer_error,
    learning,
    made_from,
    noise,
    outliers,
    overlap,
    published,
    rescue,
    selftest,
    sizes,
    verification,
)
from ptqflow.reporting.render import TextTable

Rows = Sequence[dict[str, Any]]
Printed = Callable[[Rows], TextTable | Sequence[TextTable]]
ACCURACY, COLLAPSE, SAMPLES, LAYERS, LATENCY, CHECKPOINTS = (
    "Accuracy",
    "Collapse and length",
    "Samples",
    "Layers",
    "Latency",
    "Checkpoints",
)
# Page and what prints it, of every table but the answer: in order of the pages, and of the tables on each.
TABLES: dict[str, tuple[str, Printed]] = {
    "accuracy": (ACCURACY, accuracy_table.printed),
    "comparison": ("Recipe × recipe", comparison.printed),
    "collapse": (COLLAPSE, collapse.printed),
    "flips": (SAMPLES, flips.printed),
    "layer_error": (LAYERS, layer_error.printed),
    "outliers": (LAYERS, outliers.printed),
    "learning": (LAYERS, learning.printed),
    "rescue": (LAYERS, rescue.printed),
    "latency": (LATENCY, lambda rows: (latency.printed(rows), latency.printed_requests(rows))),
    "latency_parts": (LATENCY, latency_parts.printed),
    "cost": ("Cost", cost_table.printed),
    "sizes": (CHECKPOINTS, sizes.printed),
    "verification": (CHECKPOINTS, verification.printed),
    "noise": ("Noise", noise.printed),
    "overlap": ("Overlap", overlap.printed),
    "published": ("Published", published.printed),
    "selftest": ("Devices", selftest.printed),
    "provenance": ("Provenance", made_from.printed),
}


def grids(name: str, rows: Rows) -> list[TextTable]:
    """A table for reading."""
    _, printed = TABLES[name]
    found = printed(rows)
    return [found] if isinstance(found, TextTable) else list(found)
