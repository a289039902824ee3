"""Every table across a study by its name, with its schema: what `aggregate` publishes, and what figures and pages read."""

import pyarrow as pa

from ptqflow.artifacts import table_schemas as schemas
from ptqflow.artifacts.evidence_schemas import OVERLAP_SUMMARY, PUBLISHED
from ptqflow.artifacts.schemas import SELFTEST

SCHEMA_OF: dict[str, pa.Schema] = {
    "answer": schemas.ANSWER,
    "accuracy": schemas.ACCURACY,
    "comparison": schemas.COMPARISON,
    "collapse": schemas.COLLAPSE,
    "flips": schemas.FLIPS,
    "layer_error": schemas.LAYER_ERROR,
    "outliers": schemas.OUTLIERS,
    "learning": schemas.LEARNING,
    "rescue": schemas.RESCUE_SUMMARY,
    "latency": schemas.LATENCY_SUMMARY,
    "latency_parts": schemas.LATENCY_PARTS,
    "cost": schemas.COST,
    "sizes": schemas.SIZES,
    "verification": schemas.VERIFICATION_SUMMARY,
    "noise": schemas.NOISE,
    "overlap": OVERLAP_SUMMARY,
    "published": PUBLISHED,
    "selftest": SELFTEST,
    "provenance": schemas.PROVENANCE,
}
