"""Parquet with a declared schema, checked when written and when read, and written atomically.

Each column states its type, unit and nullability once, in `schemas.py`. Files are zstd-compressed, have a checksum for each page
(those of hidden states neither), and carry a `ptqflow` metadata entry: canonical JSON of the settings, hashes of inputs, versions
and device that made them.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ptqflow.artifacts.atomic import atomic_path, canonical_json
from ptqflow.errors import ArtifactError
from ptqflow.system import reading

METADATA_KEY = b"ptqflow"
SCHEMA_KEY = b"schema"


def column(name: str, kind: pa.DataType, meaning: str, *, unit: str = "", nullable: bool = False) -> pa.Field:
    """A column with its meaning and unit kept in the file itself."""
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


def versioned(name: str, version: int, columns: Sequence[pa.Field]) -> pa.Schema:
    """A schema that files name in their metadata: `name version`."""
    return pa.schema(columns, metadata={SCHEMA_KEY: f"{name} {version}"})


def to_table(schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows to a table of `schema`. A row with an unknown or missing non-null column raises ArtifactError."""
    rows = list(rows)
    for row in rows:
        unknown = row.keys() - set(schema.names)
        missing = [f.name for f in schema if not f.nullable and row.get(f.name) is None]
        if unknown or missing:
            raise ArtifactError(f"row does not fit its schema: unknown columns {sorted(unknown)}, missing {missing}")
    for field in schema:
        wrong = [row[field.name] for row in rows if _not_whole(row.get(field.name))] if pa.types.is_integer(field.type) else []
        if wrong:
            raise ArtifactError(f"row does not fit its schema: column {field.name} is {field.type}, found {wrong[0]!r}")
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowException, OverflowError) as error:
        raise ArtifactError(f"row does not fit its schema ({error}); columns and types are {_types(schema)}") from None


def _not_whole(value: object) -> bool:
    """Arrow would silently drop the fraction of a float in an integer column."""
    return not (value is None or type(value) is int or isinstance(value, Integral))


def _types(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def numbers(kind: pa.DataType, values: np.ndarray) -> pa.Array:
    """A column of `values` [rows], whose dtype is that of `kind`: their memory, and no import of pandas, as pa.array would do."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def repeated(text: str, rows: int) -> pa.Array:
    """A column that holds `text` in each row; no import of pandas either."""
    data = text.encode()
    ends = np.arange(rows + 1, dtype=np.int32) * np.int32(len(data))
    return pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(ends), pa.py_buffer(data * rows)])


def write_table(path: str | os.PathLike[str], table: pa.Table, schema: pa.Schema, metadata: Mapping[str, Any]) -> None:
    """Check `table` against `schema` and write it atomically with `metadata` as canonical JSON."""
    check(table, schema, path)
    with atomic_path(path) as temporary:
        described = table.cast(schema).replace_schema_metadata(metadata_entries(schema, metadata))
        pq.write_table(described, temporary, compression="zstd", write_page_checksum=True)


def metadata_entries(schema: pa.Schema, metadata: Mapping[str, Any]) -> dict[bytes, bytes]:
    """A file's metadata: those of `schema`, and `metadata` as canonical JSON."""
    return {**(schema.metadata or {}), METADATA_KEY: canonical_json(dict(metadata)).encode()}


def write_rows(
    path: str | os.PathLike[str], schema: pa.Schema, rows: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]
) -> None:
    """`to_table` and `write_table` in one step."""
    write_table(path, to_table(schema, rows), schema, metadata)


def read_table(path: str | os.PathLike[str], schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file and check it against `schema`. Raises ArtifactError when absent, unreadable or different."""
    if not Path(path).is_file():
        raise ArtifactError(f"{path} does not exist; run the stage that makes it first")
    said = reading(path, "a readable Parquet file", "delete it and run again")
    # pq.read_table would import pandas, which takes 0.3 s and 40 MB.
    with said, pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read(columns=list(columns) if columns else None)
    found, expected = ((each.metadata or {}).get(SCHEMA_KEY) for each in (table.schema, schema))
    if found and expected and found != expected:
        raise ArtifactError(
            f"{path} is of schema {found.decode()}, here {expected.decode()} is read; delete it and run the stage that makes it"
        )
    check(table, pa.schema([schema.field(c) for c in columns]) if columns else schema, path)
    return table


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The `ptqflow` metadata entry of a Parquet file."""
    if not Path(path).is_file():
        raise ArtifactError(f"{path} does not exist; run the stage that makes it first")
    with reading(path, "a readable Parquet file", "delete it and run again"):
        return metadata_of(pq.read_schema(path))


def metadata_of(schema: pa.Schema) -> dict[str, Any]:
    """The `ptqflow` metadata entry of a table's schema."""
    return dict(json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}")))


def check(table: pa.Table, schema: pa.Schema, path: str | os.PathLike[str]) -> None:
    """Names, order, types and nulls of `table` must be those of `schema`."""
    if table.schema.names != schema.names:
        raise ArtifactError(
            f"{path}: columns {table.schema.names}, expected {schema.names}; delete it and run the stage that makes it"
        )
    for field, values in zip(schema, table.columns, strict=True):
        if values.type != field.type:
            raise ArtifactError(f"{path}: column {field.name} is {values.type}, expected {field.type}")
        if values.null_count and not field.nullable:
            raise ArtifactError(f"{path}: column {field.name} holds {values.null_count} nulls and may hold none")
