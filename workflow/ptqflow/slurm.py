"""What Slurm says of a cluster and of the job that this is. Import-light."""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ptqflow.errors import PtqflowError

PATIENCE = 60  # seconds
_INDICES = r"(?:\([^)]*?IDX:([0-9,-]+)[^)]*\))"


def said(*command: str) -> str:
    """Standard output of a Slurm command; empty where Slurm is not there or refuses.

    Raises PtqflowError where it does not answer: what a job was given, or what the cluster has, is then unknown.
    """
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE).stdout
    except subprocess.TimeoutExpired:
        words = " ".join(command[:2])
        raise PtqflowError(f"Slurm did not answer `{words}` within {PATIENCE} s; try again when its controller does") from None


def allocated(gres: str, variables: Mapping[str, str]) -> list[str]:
    """Indices on its node of the devices that the job of these environment variables was given; none outside of a job.

    Slurm itself tells a job only of its `gpu`s.
    """
    if (job := variables.get("SLURM_JOB_ID")) is None:
        return []
    return indices(said("scontrol", "show", "job", "--details", job), gres)


def indices(details: str, gres: str) -> list[str]:
    """The indices of a gres in the words of `scontrol show job --details`, e.g. `GRES=npu:910b:2(IDX:0-1)`."""
    found: list[str] = []
    for part in re.finditer(rf"\b{re.escape(gres.partition(':')[0])}(?::[\w.-]+)*{_INDICES}", details):
        for run in part[1].split(","):
            first, _, last = run.partition("-")
            found += [str(index) for index in range(int(first), int(last or first) + 1)]
    return found


@dataclass(frozen=True)
class Limits:
    """The most that one job of a partition can have."""

    partition: str
    cpus: int
    mem_mb: int
    minutes: int | None
    gres: Mapping[str, int]


def limits(partition: str | None) -> Limits | None:
    """Of a partition (None: the default one); None where Slurm is not there or knows no such partition."""
    form = "%R|%c|%m|%l|%G|%P"
    rows = [line.split("|") for line in said("sinfo", "--noheader", "--exact", "--Node", "--format", form).splitlines()]
    rows = [row for row in rows if row[0] == partition or (partition is None and row[5].endswith("*"))]
    if not rows:
        return None
    gres: Counter[str] = Counter()
    for row in rows:
        gres |= counts(row[4])
    return Limits(rows[0][0], max(int(row[1]) for row in rows), max(int(row[2]) for row in rows), minutes(rows[0][3]), gres)


def counts(gres: str) -> Counter[str]:
    """How many of each gres a node has, by NAME and by NAME:TYPE, in the words of `sinfo`, e.g. `gpu:a100:2(S:0),gpu:v100:4`.

    A job that asks for NAME alone is given any type, so types add up. What has no whole number (`lustre:4G`) is no device.
    """
    found: Counter[str] = Counter()
    for entry in re.sub(r"\([^)]*\)", "", gres).split(","):
        *names, count = entry.split(":")
        if names and count.isdecimal():
            found.update(dict.fromkeys({names[0], ":".join(names)}, int(count)))
    return found


def minutes(text: str) -> int | None:
    """Minutes in Slurm's words for a time limit, `[days-]hours:minutes:seconds`; None for infinite."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (*parts, days or "0")):
        return None
    hours, minutes, _seconds = (int(part) for part in ["0"] * (3 - len(parts)) + parts)
    return (int(days or 0) * 24 + hours) * 60 + minutes
