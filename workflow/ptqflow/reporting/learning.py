"""The table of learning: what every step and check of learned transforms measured, block by block."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ptqflow.reporting.variants import Chunk


def build(losses: Sequence[tuple[Chunk, pa.Table]]) -> list[dict[str, Any]]:
    """Rows of schema LEARNING from tables of schema LOSSES, in their order."""
    return [{**chunk.model_dump(), **row} for chunk, table in losses for row in table.to_pylist()]
