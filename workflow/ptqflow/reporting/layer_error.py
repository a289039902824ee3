"""The layer-error table: diagnostics of every chunk, side by side (the source paper's Figure 1 and what explains it)."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ptqflow.errors import ArtifactError
from ptqflow.reporting.variants import Chunk

BLOCK = "block"


def build(diagnostics: Sequence[tuple[Chunk, pa.Table]]) -> list[dict[str, Any]]:
    """Rows of schema LAYER_ERROR from tables of schema DIAGNOSTICS, in order of layers.

    Raises ArtifactError when two chunks of a recipe hold the same layer and module: they overlap.
    """
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[str, ...], Chunk] = {}
    for chunk, table in diagnostics:
        for entry in table.to_pylist():
            key = (chunk.platform, chunk.model, chunk.recipe, str(entry["layer"]), entry["module"])
            if key in seen:
                raise ArtifactError(
                    f"{chunk}: layer {entry['layer']} {entry['module']} is also in {seen[key]}; quantize both chunks again"
                )
            seen[key] = chunk
            rows.append({**chunk.model_dump(), **entry})
    order = {name: i for i, name in enumerate(dict.fromkeys((r["platform"], r["model"], r["recipe"]) for r in rows))}
    return sorted(rows, key=lambda r: (order[r["platform"], r["model"], r["recipe"]], r["layer"]))
