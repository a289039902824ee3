"""Outputs are written whole or not at all: temporary name in the same folder, fsync, rename, fsync of the folder."""

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptqflow.system import refused

_HOST = socket.gethostname().replace("/", "_")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


_TEMPORARY = re.compile(rf"\..+\.{re.escape(_HOST)}\.(\d+)\.tmp")


def remove_stale(folder: Path) -> None:
    """Remove the temporaries that killed processes of this host left in `folder` (another host's are left alone)."""
    for entry in folder.iterdir():
        if (ours := _TEMPORARY.fullmatch(entry.name)) and not _alive(ours[1]):
            _remove(entry)


def _temporary(target: Path) -> Path:
    """The name of this process's temporary beside `target`."""
    return target.with_name(f".{target.name}.{_HOST}.{os.getpid()}.tmp")


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside `path`; on success it becomes `path`, on any error it goes.

    The block may create a file or a folder there; temporaries that libraries make beside their output go with the folder.
    A folder replaces an existing one only as a whole. The system's refusals (disk full, ...) are OSErrors that name `path`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(target.parent)
    scratch = _temporary(target)
    _remove(scratch)
    temporary = scratch / target.name
    try:
        with _named(target, scratch):
            scratch.mkdir()
            yield temporary
            for entry in sorted(temporary.rglob("*")) if temporary.is_dir() else []:
                if entry.is_file():
                    sync(entry)
            sync(temporary)
            if temporary.is_dir() and target.is_dir():
                os.replace(target, scratch / ".replaced")  # removed with the scratch folder, never half removed in place
            os.replace(temporary, target)
            sync(target.parent)
    finally:
        _remove(scratch)


@contextmanager
def _named(target: Path, scratch: Path) -> Iterator[None]:
    """OSErrors of the block name `target`; those that Rust libraries (safetensors) tell only in words become OSErrors."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(scratch)):
            error.filename = str(target)
        raise
    except Exception as error:
        if isinstance(refusal := refused(error), OSError):
            raise OSError(refusal.errno, refusal.strerror, str(target)) from error
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value: sorted keys, no spaces, so that equal settings are equal strings."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write indented JSON with sorted keys atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
