"""Of every table but the answer: the page of the report that it stands on, its schema, and what prints it for reading."""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from ptqflow.artifacts import table_schemas as schemas
from ptqflow.artifacts.evidence_schemas import OVERLAP_SUMMARY, PUBLISHED
from ptqflow.artifacts.schemas import SELFTEST
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
# Page, schema and what prints it, of every table but the answer: in order of the pages, and of the tables on each.
TABLES: dict[str, tuple[str, pa.Schema, Printed]] = {
    "accuracy": (ACCURACY, schemas.ACCURACY, accuracy_table.printed),
    "comparison": ("Recipe × recipe", schemas.COMPARISON, comparison.printed),
    "collapse": (COLLAPSE, schemas.COLLAPSE, collapse.printed),
    "flips": (SAMPLES, schemas.FLIPS, flips.printed),
    "layer_error": (LAYERS, schemas.LAYER_ERROR, layer_error.printed),
    "outliers": (LAYERS, schemas.OUTLIERS, outliers.printed),
    "learning": (LAYERS, schemas.LEARNING, learning.printed),
    "rescue": (LAYERS, schemas.RESCUE_SUMMARY, rescue.printed),
    "latency": (LATENCY, schemas.LATENCY_SUMMARY, lambda rows: (latency.printed(rows), latency.printed_requests(rows))),
    "latency_parts": (LATENCY, schemas.LATENCY_PARTS, latency_parts.printed),
    "cost": ("Cost", schemas.COST, cost_table.printed),
    "sizes": (CHECKPOINTS, schemas.SIZES, sizes.printed),
    "verification": (CHECKPOINTS, schemas.VERIFICATION_SUMMARY, verification.printed),
    "noise": ("Noise", schemas.NOISE, noise.printed),
    "overlap": ("Overlap", OVERLAP_SUMMARY, overlap.printed),
    "published": ("Published", PUBLISHED, published.printed),
    "selftest": ("Devices", SELFTEST, selftest.printed),
    "provenance": ("Provenance", schemas.PROVENANCE, made_from.printed),
}


def grids(name: str, rows: Rows) -> list[TextTable]:
    """A table for reading."""
    _, _, printed = TABLES[name]
    found = printed(rows)
    return [found] if isinstance(found, TextTable) else list(found)
