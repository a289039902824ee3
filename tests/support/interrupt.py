"""kill -9 at a moment of choice, then the same command again: are the outputs those of an undisturbed run?"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path


def stage_command(stage: str, settings: str, *options: str | Path) -> list[str]:
    """`python -m ptqflow STAGE --settings ...` with this Python."""
    return [sys.executable, "-m", "ptqflow", stage, "--settings", settings, *map(str, options)]


def environment(**more: str) -> dict[str, str]:
    """This environment, with one passive thread."""
    return os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"} | more


def contents(folder: Path, ignore: Iterable[str] = ()) -> dict[str, str]:
    """sha256 of every file below `folder`, by relative path; paths whose first part is in `ignore` are left out."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.relative_to(folder).parts[0] not in set(ignore)
    }


def run(command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> float:
    """Run `command` to its end, which must be success. Returns the seconds it took."""
    start = time.monotonic()
    done = subprocess.run(command, cwd=cwd, env=env or environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - start


def kill_when(condition: Callable[[], bool], command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> bool:
    """Start `command` in a process group of its own; kill -9 the group when `condition` holds. True if it was still running."""
    process = subprocess.Popen(
        command, cwd=cwd, env=env or environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while process.poll() is None and not condition():
        time.sleep(0.005)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        process.wait()
    return process.returncode == -signal.SIGKILL


def kill_after(seconds: float, command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> bool:
    """`kill_when` that many seconds have passed."""
    end = time.monotonic() + seconds
    return kill_when(lambda: time.monotonic() >= end, command, cwd, env)


def assert_survives_kills(
    command: Sequence[str],
    cwd: Path,
    folder: Path,
    expected: Mapping[str, str],
    moments: Iterable[float],
    *,
    last: str,
    ignore: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
) -> int:
    """Kill `command` at each of `moments` (seconds), then let it finish; `folder` must then hold `expected` (see `contents`).

    After every kill, the file `last`, which declares the output whole, is absent or as expected. Returns the number of runs
    that the kill caught.
    """
    caught = 0
    for moment in moments:
        caught += kill_after(moment, command, cwd, env)
        if (folder / last).exists():
            assert contents(folder, ignore)[last] == expected[last], f"{last} is neither absent nor whole after {moment:.2f} s"
    run(command, cwd, env)
    assert contents(folder, ignore) == dict(expected)
    return caught


def random_moments(count: int, seconds: float, seed: int) -> list[float]:
    """`count` moments within `seconds`, seeded."""
    generator = random.Random(seed)
    return [generator.uniform(0, seconds) for _ in range(count)]
