"""What a long job has finished, kept as it finishes, so that a killed job goes on where it was.

A journal is a folder beside the job's output, with one file for each process that worked on it. Nobody writes to another's file:
two jobs for one output, or two machines on a shared file system, cannot spoil each other's. A file is a series of gzip members
(`zcat` reads it), each one line of JSON with the CRC of gzip. The first says what the results are made from; each other one holds
results that came together, so that they are kept together or not at all. What was torn by a kill, or damaged since, is not read.
"""

import json
import os
import sys
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from ptqflow.artifacts.atomic import canonical_json

_BLOCK = 1 << 16
_SECONDS_BETWEEN_SYNCS = 10.0  # a killed process loses nothing, a machine that loses power at most this


def _members(path: Path) -> Iterator[Any]:
    """The JSON values of a file's whole gzip members, up to the first that is not."""
    try:
        with open(path, "rb") as file:
            block = file.read(_BLOCK)
            while block:
                member, pieces = zlib.decompressobj(wbits=31), []
                while block and not member.eof:
                    pieces.append(member.decompress(block))
                    block = member.unused_data or file.read(_BLOCK)
                if not member.eof:
                    return
                yield json.loads(b"".join(pieces))
    except (zlib.error, FileNotFoundError):  # damaged; or another job finished, and removed it
        return


class Journal:
    """Results of numbered requests. `results`: what is known of each, from files that say `made_from`, and from `add`;
    `added`: how many came by `add`.

    Without a folder nothing is kept. `made_from` is JSON data, and has to say all that a result depends on.
    """

    def __init__(self, folder: Path | None = None, made_from: Mapping[str, Any] | None = None) -> None:
        self.folder, self.made_from = folder, dict(made_from or {})
        self.results: dict[int, Any] = {}
        self.added = 0
        self._file: BinaryIO | None = None
        self._synced = 0.0

    def open(self, requests: str) -> int:
        """Take what is kept of these `requests` (a digest of all that is asked). Returns how many results that are."""
        self.made_from["requests"] = requests
        for path in self._files():
            members = _members(path)
            if self._ours(next(members, None)):
                for results in members:
                    self.results.update({int(request): result for request, result in results.items()})
        if self.results:
            print(f"{len(self.results)} results of a job that was cut off are kept in {self.folder}", file=sys.stderr)
        return len(self.results)

    def add(self, results: Mapping[int, Any]) -> None:
        """Keep results, JSON data, that came together."""
        self.results.update(results)
        self.added += len(results)
        if self.folder is None:
            return
        if self._file is None:
            self._file = self._create(self.folder)
            self._write(self.made_from)
        self._write({str(request): result for request, result in results.items()})
        if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def remove(self) -> None:
        """Remove what is kept of these requests: their output is whole. What is kept of other ones stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
        for path in self._files():
            if self._ours(next(_members(path), self.made_from)):
                path.unlink(missing_ok=True)
        if self.folder is not None:
            with suppress(OSError):  # not there, or it holds something of other requests
                self.folder.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.jsonl.gz")) if self.folder is not None else []

    def _ours(self, made_from: Any) -> bool:
        return made_from is not None and canonical_json(made_from) == canonical_json(self.made_from)

    @staticmethod
    def _create(folder: Path) -> BinaryIO:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                return open(folder / f"{uuid.uuid4().hex}.jsonl.gz", "xb", buffering=0)
            except FileNotFoundError:  # another job finished just now, and removed the folder
                continue

    def _write(self, value: Any) -> None:
        assert self._file is not None
        compressor = zlib.compressobj(wbits=31)
        data = memoryview(compressor.compress(canonical_json(value).encode() + b"\n") + compressor.flush())
        while data:
            data = data[self._file.write(data) :]
