"""What collect leaves: hidden states, one [tokens, hidden] tensor per sequence, exact in any dtype (bfloat16 travels as uint16
bits), and statistics of channels.
"""

import math
import os
from collections.abc import Mapping
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ptqflow.artifacts import schemas
from ptqflow.artifacts.atomic import atomic_path
from ptqflow.artifacts.tables import check, metadata_entries, numbers, read_table
from ptqflow.errors import ArtifactError
from ptqflow.system import reading

_STORAGE = {torch.float32: pa.float32(), torch.float16: pa.float16(), torch.bfloat16: pa.uint16()}
_ENCODING = {
    "compression": "zstd",
    "use_dictionary": False,
    "write_statistics": False,
    "column_encoding": {"sequence": "PLAIN", "hidden.list.element": "BYTE_STREAM_SPLIT"},
}
_BUFFER = 1 << 20  # bytes of the file at once
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _STORAGE}


def chunk_file(chunk: int) -> str:
    """Where the hidden states entering a chunk are, beside the manifest that collect writes."""
    return f"chunk={chunk}/activations.parquet"


def write_activations(path: str | os.PathLike[str], hidden: Tensor, metadata: Mapping[str, Any]) -> None:
    """Write hidden states [sequences, tokens, hidden] (float32, float16 or bfloat16, on the CPU).

    Sequence by sequence, so that little memory is added; bytes of equal weight together, which compress best and fastest.
    """
    _, tokens, width = hidden.shape
    schema = schemas.activations(tokens, width, _STORAGE[hidden.dtype], str(hidden.dtype).removeprefix("torch."))
    bits = hidden.view(torch.uint16) if hidden.dtype == torch.bfloat16 else hidden
    tensor = schema.field("hidden").type
    described = schema.with_metadata(metadata_entries(schema, metadata))
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, described, **_ENCODING) as writer:
        for sequence, states in enumerate(bits.split(1)):
            elements = numbers(tensor.value_type, states.flatten().numpy())
            column = pa.Array.from_buffers(tensor.storage_type, 1, [None], children=[elements])
            row = [numbers(schemas.i32, np.array([sequence], np.int32)), pa.ExtensionArray.from_storage(tensor, column)]
            writer.write_table(pa.Table.from_arrays(row, schema=schema))


def read_activations(path: str | os.PathLike[str], enough: int | None = None) -> Tensor:
    """Read what `write_activations` wrote, in the dtype it had. Raises ArtifactError for anything else.

    `enough`: a number of tokens; then only the first sequences, which hold as many, are read. Sequence by sequence, so that the
    memory is that of the result.
    """
    if not Path(path).is_file():
        raise ArtifactError(f"{path} does not exist; run collect first")
    said = reading(path, "a file of hidden states", "delete it and run collect again")
    with said, pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
        field = file.schema_arrow.field("hidden")
        (tokens, width), dtype = field.type.shape, _DTYPES[(field.metadata or {})[b"dtype"].decode()]
        schema = schemas.activations(tokens, width, _STORAGE[dtype], str(dtype).removeprefix("torch."))
        check(pa.Table.from_batches([], file.schema_arrow), schema, path)
        bits = torch.uint16 if dtype == torch.bfloat16 else dtype
        rows = file.metadata.num_rows if enough is None else min(file.metadata.num_rows, math.ceil(enough / tokens))
        values = torch.empty(rows, tokens, width, dtype=bits)
        for row, batch in enumerate(islice(file.iter_batches(batch_size=1, columns=["hidden"]), rows)):
            values[row] = torch.from_dlpack(batch.column("hidden").storage.flatten()).view(tokens, width)
    pa.default_memory_pool().release_unused()
    return values.view(dtype)


def read_absmax(path: Path) -> dict[int, dict[str, Tensor]]:
    """max|x| [channels] of the float model, float32, by layer and site.

    ArtifactError unless each site's rows lie together in the order of channels, as collect writes them.
    """
    table = read_table(path, schemas.STATISTICS, ["layer", "site", "channel", "absmax"])
    channel, absmax = (torch.from_dlpack(table[name].combine_chunks()) for name in ("channel", "absmax"))
    found: dict[int, dict[str, Tensor]] = {}
    for start, stop in pairwise([*(channel == 0).nonzero().flatten().tolist(), len(channel)]):
        if not torch.equal(channel[start:stop], torch.arange(stop - start, dtype=channel.dtype)):
            raise ArtifactError(f"{path}: channels are not in order from row {start} on; run collect again")
        layer, site = table["layer"][start].as_py(), table["site"][start].as_py()
        found.setdefault(layer, {})[site] = absmax[start:stop].clone()
    return found
