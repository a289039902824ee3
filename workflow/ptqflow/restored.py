"""Files that no longer hold what their jobs wrote: an older backup, put back with its times or without. Imports no torch.

Snakemake compares an input with the checksum that was recorded of it only where the input is newer than what was made of it, and
never asks whether a file is still what its own job wrote. So, before it plans: a file whose time is not the one recorded as its
job ended is compared by content with what later jobs read of it, or, where no job reads it, with what was remembered of it at the
end of a run. One that differs is marked as Snakemake marks the output of a job that was cut off: it is made again, and what
follows from it. A mark of ours goes as soon as the file is right again. A folder is known by its manifest.json: one that lacks a
file which that lists, or has one of another size, is marked, too.

Snakemake's records lie beside the results, not with them. So each run leaves a copy among the results; where these are copied to
another checkout, or come back from a backup, their records come along.
"""

import json
import os
import re
import sys
import zipfile
from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ptqflow import paths
from ptqflow.artifacts.atomic import atomic_path, write_json
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.manifests import NAME as MANIFEST

SNAKEMAKE = Path(".snakemake")
REMEMBERED = Path(".ptqflow/outputs.json")  # of outputs that no job reads: path -> [time at the end of its job, sha256]
KEPT = Path(paths.RECORDS)
_STAMP = Path(".ptqflow/records.json")  # size and time of KEPT as this folder left or took it
_NAME = re.compile(r"(@[\w=-]+/)*[\w=-]+")
_MARK = {"external_jobid": None, "ptqflow": "holds something else than its job wrote"}
_ENDTIME = re.compile(rb'"endtime": ([0-9.e+]+)')


@dataclass
class Records:
    """What Snakemake has recorded of the outputs in this folder (format of its file backend), by path."""

    folder: Path = SNAKEMAKE
    sha256: Callable[[str], str] = field(default_factory=lambda: HashCache().sha256)

    @cached_property
    def _texts(self) -> dict[str, tuple[str, bytes]]:
        """Of each output: the name of its record, and the record. Thousands, at each start: no `Path` of each."""
        found, top = {}, str(self.folder / "metadata")
        for folder, _, names in os.walk(top):
            for name in names:
                record = f"{folder}/{name}".removeprefix(f"{top}/")
                if (output := _output(record)) is not None:
                    with open(f"{top}/{record}", "rb") as file:
                        found[output] = (record, file.read())
        return found

    @cached_property
    def ended(self) -> dict[str, float]:
        """The time of each output as its job left it."""
        times = {output: _ENDTIME.search(text) for output, (_, text) in self._texts.items()}
        return {output: float(time[1]) for output, time in times.items() if time}

    def as_left(self, output: str) -> bool | None:
        """Whether an output has the time that it had as its job ended; None where it is not there."""
        try:
            return os.stat(output).st_mtime == self.ended[output]
        except OSError:
            return None

    @cached_property
    def read(self) -> set[str]:
        """The outputs that some job has read."""
        return {name for _, text in self._texts.values() for name in _checksums(_record(text))}

    def _written(self, output: str, remembered: dict[str, Any]) -> set[str]:
        """sha256 of what its job wrote, as far as it is known: as jobs that began later read it, or as it was remembered."""
        if output not in self.read:
            time, digest = remembered.get(output, (None, ""))
            return {digest} if time == self.ended[output] else set()
        name = json.dumps(output).encode()
        readers = (_record(text) for _, text in self._texts.values() if name in text)
        later = (reader for reader in readers if (reader.get("starttime") or 0) >= self.ended[output])
        checksums = {_checksums(reader).get(output) for reader in later}
        return {checksum.removeprefix("sha256:") for checksum in checksums if checksum}

    def others(self) -> list[str]:
        """The outputs that do not hold what their jobs wrote, or, of a folder's manifest, list files that are not there."""
        moved = [output for output in self.ended if self.as_left(output) is False]
        remembered = _remembered() if moved else {}
        known = {output: self._written(output, remembered) for output in moved}
        others = {output for output, written in known.items() if written and self.sha256(output) not in written}
        manifests = (output for output in self.ended if os.path.basename(output) == MANIFEST)
        return sorted(others.union(output for output in manifests if _lacks_files(output)))

    def mark(self) -> list[str]:
        """Mark `others`, and nothing else of what was marked here before; returns them."""
        others, marks = self.others(), self.folder / "incomplete"
        for mark in [file for file in marks.rglob("*") if file.is_file() and _is_ours(file)]:
            mark.unlink(missing_ok=True)
        for output in others:
            mark = marks / self._texts[output][0]
            mark.parent.mkdir(parents=True, exist_ok=True)
            if not mark.exists():  # that of a job which runs, or was cut off
                mark.write_text(json.dumps(_MARK))
        return others

    def remember(self) -> None:
        """Keep the content of outputs that no job reads and that are as their jobs left them."""
        before = _remembered()
        now = {output: before[output] for output in before if output in self.ended}
        for output in self.ended.keys() - self.read:
            time = self.ended[output]
            if self.as_left(output) and before.get(output, (None,))[0] != time:
                now[output] = [time, self.sha256(output)]
        if now != before and REMEMBERED.parent.is_dir():
            write_json(REMEMBERED, now)

    def keep(self) -> None:
        """Copy the records to the results."""
        if self._texts and KEPT.parent.is_dir() and _STAMP.parent.is_dir():
            with atomic_path(KEPT) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as kept:
                for name, text in self._texts.values():
                    kept.writestr(name, text)
            write_json(_STAMP, _stamp())


def at_the_end() -> None:
    """What a run leaves of its outputs, whether it succeeded or not."""
    records = Records()
    records.remember()
    records.keep()


def adopt(folder: Path = SNAKEMAKE) -> None:
    """Take the records of results that were copied here: where there are none, or the file has the time that they say."""
    if not (KEPT.is_file() and _STAMP.parent.is_dir()) or _stamp() == _loaded(_STAMP):
        return
    here = Records(folder)
    if not zipfile.is_zipfile(KEPT):
        print(f"{KEPT} is damaged: of results that were copied here, only times say what is to be made again", file=sys.stderr)
        return
    with zipfile.ZipFile(KEPT) as kept:
        for name in kept.namelist():
            if (output := _output(name)) is None:
                continue
            text = kept.read(name)
            time = _ENDTIME.search(text)
            fits = time is not None and os.path.exists(output) and os.stat(output).st_mtime == float(time[1])
            if output not in here.ended or (fits and not here.as_left(output)):
                file = folder / "metadata" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(text)
    write_json(_STAMP, _stamp())


def _stamp() -> list[int]:
    stat = KEPT.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _output(name: str) -> str | None:
    """The output of a record, by the record's name; None of a file that is none (such as NFS leaves behind)."""
    if not _NAME.fullmatch(name):
        return None
    try:
        return urlsafe_b64decode("".join(part.removeprefix("@") for part in name.split("/"))).decode()
    except ValueError:
        return None


def _loaded(path: Path) -> Any:
    """What a JSON file of this folder holds; None where it is not there, or damaged: it is only memory."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _record(text: bytes) -> dict[str, Any]:
    """A record; empty where it is being written, or damaged: Snakemake passes over such, too."""
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        return {}


def _checksums(record: dict[str, Any]) -> dict[str, str]:
    return record.get("input_checksums") or {}


def _is_ours(mark: Path) -> bool:
    try:
        return bool(json.loads(mark.read_bytes()) == _MARK)
    except (OSError, ValueError):
        return False


def _lacks_files(manifest: str) -> bool:
    """Whether a file that a manifest lists is not there, or is of another size; links are followed, and nothing is hashed."""
    folder = os.path.dirname(manifest)
    try:
        listed = json.loads(Path(manifest).read_bytes())["files"]
        return any(os.stat(f"{folder}/{name}").st_size != entry["bytes"] for name, entry in listed.items())
    except FileNotFoundError:
        return os.path.exists(manifest)  # without it, Snakemake itself sees that the job's output is missing
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False  # who reads it says what is wrong


def _remembered() -> dict[str, Any]:
    found = _loaded(REMEMBERED)
    return found if isinstance(found, dict) else {}
