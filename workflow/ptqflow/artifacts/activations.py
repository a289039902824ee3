"""What collect leaves: hidden states, the bytes of each token's, exact in any dtype; and statistics of channels."""

import math
import os
from collections.abc import Mapping
from itertools import pairwise
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

# Numbers as they are: compressed they take three quarters of the space, and twice the time (docs/performance.md).
_ENCODING = {"compression": "none", "data_page_size": 1 << 24, "use_dictionary": False, "write_statistics": False}
_BUFFER = 1 << 20  # bytes of the file at once
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16)}


def chunk_file(chunk: int) -> str:
    """Where the hidden states entering a chunk are, beside the manifest that collect writes."""
    return f"chunk={chunk}/activations.parquet"


def write_activations(path: str | os.PathLike[str], hidden: Tensor, metadata: Mapping[str, Any]) -> None:
    """Write hidden states [sequences, tokens, hidden] (float32, float16 or bfloat16), on any device.

    Sequence by sequence, so that little memory is added; as bytes, which Parquet copies: numbers it would widen and count.
    """
    tokens, state_bytes = hidden.shape[1], hidden.shape[2] * hidden.itemsize
    schema = schemas.activations(tokens, state_bytes, str(hidden.dtype).removeprefix("torch."))
    described = schema.with_metadata(metadata_entries(schema, metadata))
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, described, **_ENCODING) as writer:
        for sequence, states in enumerate(hidden):
            held = pa.py_buffer(states.cpu().contiguous().view(torch.uint8).numpy())
            column = pa.FixedSizeBinaryArray.from_buffers(schema.field("hidden").type, tokens, [None, held])
            of_sequence = numbers(schemas.i32, np.full(tokens, sequence, np.int32))
            writer.write_table(pa.Table.from_arrays([of_sequence, column], schema=schema))


def read_activations(path: str | os.PathLike[str], enough: int | None = None) -> Tensor:
    """Read what `write_activations` wrote, in the dtype it had, on the CPU. Raises ArtifactError for anything else.

    `enough`: a number of tokens; then only the first sequences, which hold as many, are read. Sequence by sequence, so that the
    memory is that of the result.
    """
    if not Path(path).is_file():
        raise ArtifactError(f"{path} does not exist; run collect first")
    said = reading(path, "a file of hidden states", "delete it and run collect again")
    with said, pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
        field = file.schema_arrow.field("hidden")
        noted = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        tokens, dtype, state_bytes = int(noted["sequence_length"]), _DTYPES[noted["dtype"]], field.type.byte_width
        check(pa.Table.from_batches([], file.schema_arrow), schemas.activations(tokens, state_bytes, noted["dtype"]), path)
        sequences = file.metadata.num_row_groups
        if file.metadata.num_rows != sequences * tokens or state_bytes % dtype.itemsize:
            raise ValueError(f"{file.metadata.num_rows} rows in {sequences} groups, {state_bytes} bytes each")
        count = sequences if enough is None else min(sequences, math.ceil(enough / tokens))
        states = torch.empty(count, tokens, state_bytes, dtype=torch.uint8)
        for sequence in range(count):
            column = file.read_row_group(sequence, columns=["hidden"])["hidden"].combine_chunks()
            states[sequence] = torch.frombuffer(column.buffers()[1], dtype=torch.uint8).view(tokens, state_bytes)
    pa.default_memory_pool().release_unused()
    return states.view(dtype)


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
