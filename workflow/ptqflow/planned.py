"""What a run of the workflow is going to ask of each model, so that who has loaded it asks for the others, too.

Each job of `generate` asks one task at one seed, and is planned, run again and scored alone. But a model is slow to load. So the
workflow announces, as it starts, the jobs of this run on this machine, in a folder that lives as long as it. A job that has asked
its own goes on with what no other has begun, and leaves the answers there; the job whose they are takes them, and loads nothing.
Imports no torch.
"""

import atexit
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptqflow.datamodel import Model

_FOLDER = "PTQFLOW_PLANNED"  # the variable by which jobs find the folder of their run


class Ask(Model):
    """One planned job of `generate`: its arguments."""

    platform: str
    checkpoint: str
    output: str
    settings: dict[str, Any]
    code: str


def announce(jobs: Sequence[Ask]) -> None:
    """Let the jobs that this process starts know of each other, until it ends."""
    folder = Path(tempfile.mkdtemp(prefix="ptqflow-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "planned.json").write_text(json.dumps([job.model_dump() for job in jobs]))
    os.environ[_FOLDER] = str(folder)


def others(platform: str, checkpoint: Path, engine: str, ranks: int, output: Path) -> list[Ask]:
    """The other jobs of this run that ask this checkpoint in this engine on so many devices."""
    asked = platform, str(checkpoint), engine, ranks
    folder = _folder()
    jobs = [] if folder is None else [Ask.model_validate(job) for job in json.loads((folder / "planned.json").read_text())]
    return [
        job
        for job in jobs
        if (job.platform, job.checkpoint, job.settings.get("engine"), job.settings.get("tensor_parallel", 1)) == asked
        and job.output != str(output)
    ]


def _folder() -> Path | None:
    folder = os.environ.get(_FOLDER)
    return Path(folder) if folder and Path(folder).is_dir() else None


def answer(output: str | Path) -> Path | None:
    """Where another job of this run leaves the file that is to be `output`; None where nothing was announced."""
    folder = _folder()
    return folder and folder / f"{hashlib.sha256(str(output).encode()).hexdigest()}.parquet"


@contextmanager
def turn(output: str | Path, *, own: bool) -> Iterator[bool]:
    """Hold the right to ask for `output`; yields whether it was got. Its own job waits for it and gets it; another job gets it
    only where nobody has held it in this run.
    """
    place = answer(output)
    if place is None:
        yield own
        return
    with open(place.with_suffix(".turn"), "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if own else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        file.seek(0)
        first = not file.read(1)
        file.write(b"held")
        file.flush()
        yield own or first
