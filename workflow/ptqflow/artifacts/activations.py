"""Hidden states on disk: one [tokens, hidden] tensor per sequence, exact in any dtype (bfloat16 travels as uint16 bits)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ptqflow.artifacts import schemas
from ptqflow.artifacts.tables import check, write_table
from ptqflow.errors import ArtifactError

_STORAGE = {torch.float32: pa.float32(), torch.float16: pa.float16(), torch.bfloat16: pa.uint16()}
_BUFFER = 1 << 20  # bytes of the file at once
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _STORAGE}
STATISTICS = "statistics.parquet"  # both names are relative to the manifest that collect writes


def chunk_file(chunk: int) -> str:
    """Where the hidden states entering a chunk are."""
    return f"chunk={chunk}/activations.parquet"


def write_activations(path: str | os.PathLike[str], hidden: Tensor, metadata: Mapping[str, Any]) -> None:
    """Write hidden states [sequences, tokens, hidden] (float32, float16 or bfloat16, on the CPU)."""
    sequences, tokens, width = hidden.shape
    schema = schemas.activations(tokens, width, _STORAGE[hidden.dtype], str(hidden.dtype).removeprefix("torch."))
    bits = hidden.view(torch.uint16) if hidden.dtype == torch.bfloat16 else hidden
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(bits.contiguous().numpy())
    table = pa.table([pa.array(range(sequences), schemas.i32), column], names=schema.names)
    write_table(path, table, schema, metadata)


def read_activations(path: str | os.PathLike[str]) -> Tensor:
    """Read what `write_activations` wrote, in the dtype it had. Raises ArtifactError for anything else.

    Sequence by sequence, so that the memory is that of the result.
    """
    if not Path(path).is_file():
        raise ArtifactError(f"{path} does not exist; run collect first")
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
            field = file.schema_arrow.field("hidden")
            (tokens, width), dtype = field.type.shape, _DTYPES[(field.metadata or {})[b"dtype"].decode()]
            schema = schemas.activations(tokens, width, _STORAGE[dtype], str(dtype).removeprefix("torch."))
            check(file.schema_arrow.empty_table(), schema, path)
            bits = torch.uint16 if dtype == torch.bfloat16 else dtype
            values = torch.empty(file.metadata.num_rows, tokens, width, dtype=bits)
            for row, batch in enumerate(file.iter_batches(batch_size=1, columns=["hidden"])):
                values[row] = torch.from_numpy(batch.column("hidden").to_numpy_ndarray().copy())[0]
    except (pa.ArrowException, OSError, KeyError, AttributeError, ValueError) as error:
        raise ArtifactError(f"{path} holds no hidden states ({error!r}); delete it and run collect again") from None
    pa.default_memory_pool().release_unused()
    return values.view(dtype)
