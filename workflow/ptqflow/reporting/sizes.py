"""The table of sizes: what each checkpoint weighs on disk, and what its weights weigh packed at their nominal bits."""

from collections.abc import Sequence
from typing import Any

from ptqflow.artifacts.manifests import Manifest
from ptqflow.errors import ArtifactError
from ptqflow.reporting.render import TextTable, number
from ptqflow.reporting.variants import BASELINE, Variant

_ORIGIN = ("qparams_bytes", "packed_bytes", "linear_weights", "float_bytes")


def build(checkpoints: Sequence[tuple[Variant, Manifest]]) -> list[dict[str, Any]]:
    """Rows of schema SIZES from manifests of checkpoints. Raises ArtifactError when an exported one does not state its sizes."""
    rows = []
    unquantized: dict[tuple[str, str], tuple[int, float]] = {}
    for variant, manifest in checkpoints:
        row: dict[str, Any] = variant.variant.columns | {"bytes": sum(file.bytes for file in manifest.files.values())}
        if variant.recipe != BASELINE:
            missing = [key for key in _ORIGIN if key not in manifest.origin]
            if missing:
                raise ArtifactError(f"{variant}: its manifest's origin has no {', '.join(missing)}; export it again")
            row |= {key: int(manifest.origin[key]) for key in ("qparams_bytes", "packed_bytes")}
            weights = int(manifest.origin["linear_weights"])
            row["bits_per_weight"] = 8 * row["packed_bytes"] / weights
            stored = int(manifest.origin["float_bytes"])
            where = (row["platform"], row["model"])  # a rotated model may be held in a wider dtype than the one it was made of
            unquantized[where] = min(unquantized.get(where, (stored, 8 * stored / weights)), (stored, 8 * stored / weights))
        rows.append(row)
    for row in rows:
        known = unquantized.get((row["platform"], row["model"]))
        if row["recipe"] == BASELINE and known:  # a float model's manifest lists files; what was made of it knows its linears
            row["packed_bytes"], row["bits_per_weight"] = known
    return rows


def printed(rows: Sequence[dict[str, Any]]) -> TextTable:
    """The table for reading."""
    header = ["Platform", "Model", "Recipe", "Form", "On disk (MiB)", "qparams (MiB)", "Packed (MiB)", "Bits per weight"]
    body = []
    for r in rows:
        sizes = [None if r.get(key) is None else r[key] / 2**20 for key in ("bytes", "qparams_bytes", "packed_bytes")]
        names = [r["platform"], r["model"], r["recipe"], r["form"] or "–"]
        body.append([*names, *(number(size, 2) for size in sizes), number(r.get("bits_per_weight"), 2)])
    return TextTable("Sizes", header, body, names=4)
