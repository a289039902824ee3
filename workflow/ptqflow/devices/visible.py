"""Each job its own devices of this machine: a slot per device, held by a lock on a file as long as the process lives.

The kernel drops the lock with the process, however it dies. It takes from what a scheduler gave the job, in the variable that the
device's driver reads, else from all devices of the machine. Imports no torch: the variable is set before a driver reads it.

Slurm sets that variable for its GPUs alone, and where it constrains devices (cgroup.conf) counts those of the job: two jobs on
two GPUs are both told 0. So what Slurm gave a job is shared within the job; of what nobody gave it all of the machine's processes
choose.
"""

import fcntl
import os
import random
import re
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path

from ptqflow.errors import ConfigError

VARIABLES = {"gpu": "CUDA_VISIBLE_DEVICES", "ascend": "ASCEND_RT_VISIBLE_DEVICES"}
BY_SLURM = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")  # what Slurm sets beside CUDA_VISIBLE_DEVICES
GIVEN_TO = "PTQFLOW_DEVICES_OF"  # the Slurm job whose devices we have set in the driver's variable
PLACE = Path("/tmp/ptqflow-devices")
STANDS_FOR = "PTQFLOW_STANDS_FOR"  # the platform whose devices a job is given where stand-ins take their place
SHARED_BY = "PTQFLOW_JOBS_PER_DEVICE"  # how many jobs may hold a device at once; small models leave most of one idle
_NODES = {"gpu": re.compile(r"nvidia(\d+)"), "ascend": re.compile(r"davinci(\d+)")}
_PATIENCE_S = 1.0
_held: list[int] = []  # descriptors, open for life


def given_by_slurm(platform: str, variables: Mapping[str, str]) -> bool:
    """Whether the driver's variable names what Slurm gave the job of these variables."""
    if platform not in VARIABLES or VARIABLES[platform] not in variables:
        return False
    ours = variables.get(GIVEN_TO, "") == variables.get("SLURM_JOB_ID")
    return ours or (platform == "gpu" and any(name in variables for name in BY_SLURM))


def folder(platform: str) -> Path:
    """Where the locks lie: one place of a machine for all users, studies and jobs; a job's own where Slurm gave it devices."""
    job = os.environ.get("SLURM_JOB_ID") if given_by_slurm(platform, os.environ) else None
    return PLACE / (f"slurm-{job}" if job else "machine")


def devices(platform: str, nodes: Path = Path("/dev")) -> list[str]:
    """What the process may choose from: the devices named in the driver's variable, else those of the machine."""
    if (named := os.environ.get(VARIABLES[platform])) is not None:
        return list(dict.fromkeys(filter(None, map(str.strip, named.split(",")))))
    found = [match[1] for path in nodes.iterdir() if (match := _NODES[platform].fullmatch(path.name))]
    return sorted(found, key=int)


def slots() -> int:
    """Jobs that may hold a device at once. Raises ConfigError where the variable names no such number."""
    said = os.environ.get(SHARED_BY) or "1"
    if not said.isdecimal() or int(said) < 1:
        raise ConfigError(f"{SHARED_BY}={said}: a whole number of 1 or more belongs there; correct or unset it")
    return int(said)


def claim(platform: str, count: int) -> None:
    """Make `count` devices of a platform the only ones that this process sees, until it ends; wait until so many are free.

    The CPU has no slots; nor has a machine whose devices cannot be told, where whoever selects one says what is missing.
    Raises ConfigError where there are fewer: a job that was planned for more would give other results, or none.
    """
    platform = os.environ.get(STANDS_FOR, platform)
    if count < 1 or platform not in VARIABLES or not (known := devices(platform)):
        return
    if count > len(known):
        raise ConfigError(
            f"a job asks for {count} devices, but {socket.gethostname()} has {len(known)} of {platform} ({', '.join(known)}); "
            "use a tensor_parallel of at most so many, or a node with more"
        )
    place, told = folder(platform), False
    place.mkdir(parents=True, exist_ok=True)
    for shared in (place.parent, place):
        with suppress(PermissionError):  # another user's, who has opened it already
            shared.chmod(0o1777)
    while len(mine := _locked(place, platform, known, count)) < count:
        for descriptor in mine.values():
            os.close(descriptor)
        if not told:
            print(f"waiting for {count} of the devices {', '.join(known)}: others use them", file=sys.stderr)
            told = True
        time.sleep(_PATIENCE_S * random.uniform(0.5, 1.5))
    _held.extend(mine.values())
    os.environ[VARIABLES[platform]] = ",".join(mine)
    job = f", Slurm job {number}" if (number := os.environ.get("SLURM_JOB_ID")) else ""
    print(f"devices: {VARIABLES[platform]}={','.join(mine)} on {socket.gethostname()}{job}", file=sys.stderr)


def _locked(place: Path, platform: str, known: list[str], count: int) -> dict[str, int]:
    """Device -> descriptor of its lock, of the first `count` that have a slot left; those with the most left first."""
    mine: dict[str, int] = {}
    for slot, device in product(range(slots()), known):
        if device in mine:
            continue
        descriptor = _open(place / f"{platform}-{re.sub(r'[^A-Za-z0-9_.-]', '_', device)}.{slot}")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        mine[device] = descriptor
        if len(mine) == count:
            break
    return mine


def _open(path: Path) -> int:
    """A lock file that every user can lock. Others' files are opened without O_CREAT, which a sticky folder refuses."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        os.fchmod(descriptor, 0o666)
        return descriptor
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
