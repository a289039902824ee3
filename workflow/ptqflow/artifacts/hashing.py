"""sha256 of files, remembered by (size, mtime, ctime), so that large shards are read once and a `touch` costs nothing."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ptqflow.artifacts.atomic import write_json
from ptqflow.errors import ArtifactError

_BLOCK = 1 << 22
_REMEMBER_ABOVE = 1 << 20  # smaller files are hashed each time: cheaper than a cache entry
_SETTLED_NS = 2 * 10**9  # a file changed this recently may change again within one tick of its file system's clock


def sha256(path: str | os.PathLike[str], progress: Callable[[int], object] | None = None) -> str:
    """Hexadecimal sha256 of a file's bytes. `progress` receives the number of bytes of each block read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            if progress:
                progress(len(block))
    return digest.hexdigest()


class HashCache:
    """sha256 by path; large files are read again only when size, mtime or ctime changed.

    `store` is a JSON file; it is only a cache: deleting it, or losing an update to a concurrent writer, costs time, never truth.
    """

    def __init__(self, store: str | os.PathLike[str] = ".ptqflow/hashes.json") -> None:
        self.store = Path(store)

    def _load(self) -> dict[str, list[int | str]]:
        try:
            return dict(json.loads(self.store.read_text()))
        except (OSError, ValueError, TypeError):
            return {}

    def sha256(self, path: str | os.PathLike[str]) -> str:
        """Hexadecimal sha256 of `path`, from the cache where nothing suggests a change."""
        file = Path(path).resolve()
        try:
            stat = file.stat()
        except FileNotFoundError:
            raise ArtifactError(f"{path} does not exist") from None
        if stat.st_size <= _REMEMBER_ABOVE:
            return sha256(file)
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        entry = self._load().get(str(file))
        if isinstance(entry, list) and entry[:3] == stamp:
            return str(entry[3])
        if stat.st_size > 1 << 30:
            print(f"hashing {path} ({stat.st_size / 1e9:.1f} GB)", file=sys.stderr)
        value = sha256(file)
        if time.time_ns() - stat.st_ctime_ns >= _SETTLED_NS:
            with suppress(OSError):  # a read-only working directory: only speed is lost
                write_json(self.store, {**self._load(), str(file): [*stamp, value]})
        return value
