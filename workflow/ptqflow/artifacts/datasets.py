"""Rows of data sets (JSONL, Parquet or CSV; a file, a folder in the hub's layout, or the hub itself) as plain dictionaries."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ptqflow.errors import ConfigError
from ptqflow.sources import Source
from ptqflow.system import reading

_ROWS_AT_ONCE = 1024  # of Parquet
_FORMATS = (".parquet", ".jsonl", ".csv")
_LONGEST_CELL = 2**31 - 1  # characters; the reader's own limit is less than a long trace


def _patterns(source: Source) -> list[str]:
    """Globs of the known layouts, most specific first; the first that matches anything wins."""
    split = source.split or source.usual_split
    folders = [f"{source.subset}/", f"data/{source.subset}/"] if source.subset else ["", "data/"]
    return [f"{folder}{split}{rest}{suffix}" for folder in folders for rest in ("", "-*", "/*") for suffix in _FORMATS]


def data_files(source: Source) -> list[Path]:
    """The files that hold the rows of `source`, in reading order. Downloads a hub source once (huggingface_hub's cache).

    Raises ConfigError, naming what was looked for, when there are none.
    """
    if source.local is not None and source.local.is_file():
        if source.subset or source.file:
            raise ConfigError(f"source {source.label}: path is a file; leave subset and file out")
        return _readable([source.local])
    patterns = [source.file] if source.file else _patterns(source)
    folder = source.local if source.local is not None else _snapshot(source, patterns)
    if not folder.is_dir():
        raise ConfigError(f"source {source.label}: {folder} does not exist; fetch the data there or correct path")
    for pattern in patterns:
        try:
            files = sorted(path for path in folder.glob(pattern) if path.is_file())
        except (ValueError, NotImplementedError) as error:
            raise ConfigError(f"source {source.label}: {pattern!r} is no pattern of file names ({error}); correct it") from None
        if files:
            return _readable(files)
    raise ConfigError(
        f"source {source.label}: no file {' or '.join(patterns)} in {folder}; correct subset and split, or name the file by file:"
    )


def _readable(files: list[Path]) -> list[Path]:
    for path in files:
        if path.suffix not in _FORMATS:
            raise ConfigError(
                f'{path}: rows are read from .jsonl, .parquet or .csv; convert it (plain text: lines {{"text": ...}})'
            )
    return files


def _snapshot(source: Source, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    from ptqflow.artifacts.hub import explained

    assert source.repo is not None
    with explained(f"source {source.label}"):
        return Path(snapshot_download(source.repo, repo_type="dataset", revision=source.revision, allow_patterns=patterns))


def _read(path: Path, at_once: int = _ROWS_AT_ONCE) -> Iterator[dict[str, Any]]:
    with reading(path, f"readable as {path.suffix[1:]}", "correct it, or fetch it again"):
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8-sig") as lines:
                yield from (_row(number, line) for number, line in enumerate(lines, 1) if line.strip())
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as lines:
                yield from _csv(lines)
        else:
            import pyarrow.parquet as pq

            for batch in pq.ParquetFile(path).iter_batches(at_once):
                yield from batch.to_pylist()


def _csv(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Rows of a table with a header; an empty cell is no value, an empty line no row. All values are text."""
    csv.field_size_limit(_LONGEST_CELL)
    rows = filter(None, reader := csv.reader(lines, strict=True))
    names = next(rows, [])
    if twice := [name for name in filter(None, names) if names.count(name) > 1]:  # columns without a name are nobody's to read
        raise ValueError(f"its header names {twice[0]!r} twice")
    for row in rows:
        if len(row) != len(names):
            raise ValueError(f"line {reader.line_num} has {len(row)} cells, its header {len(names)}")
        yield {name: cell or None for name, cell in zip(names, row, strict=True)}


def _row(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number}: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is not an object {{...}} but a {type(row).__name__}; one row per line")
    return row


def rows_of(source: Source) -> Iterator[dict[str, Any]]:
    """The rows of `source` in file order, a few at a time: files may be larger than memory.

    Raises ConfigError (nothing there) or ArtifactError (unreadable).
    """
    for path in data_files(source):
        yield from _read(path)


def first_row(source: Source) -> dict[str, Any]:
    """The first row of a source; reads no more. Raises ConfigError where there is none, and as `rows_of`."""
    for path in data_files(source):
        if (row := next(_read(path, 1), None)) is not None:
            return row
    raise ConfigError(f"source {source.label} holds no rows; correct path, subset or split, or leave it out")


def load_rows(source: Source) -> list[dict[str, Any]]:
    """All rows of `source` in file order. Raises ConfigError (nothing there) or ArtifactError (unreadable)."""
    return list(rows_of(source))
