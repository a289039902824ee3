"""`ptqflow run`: Snakemake on a study, with a console of one line per job, then where everything lies.

A study is a folder with a `config.yaml`; this repository is one (the demo), `ptqflow new` makes others. What was done is kept,
whatever ends a run: the same command goes on.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

from ptqflow import asked, configfile, paths, profiles
from ptqflow.commands.folders import CONFIG, refuse_study_behind, study_folder
from ptqflow.console import warnings_of
from ptqflow.environments import ROOT
from ptqflow.errors import ConfigError
from ptqflow.system import check_writable

PROFILES = ROOT / "workflow/profiles"
TAKES_REST = True  # options of Snakemake's
EXAMPLES = """examples:
  ptqflow run                               the study in this folder, on this machine's CPU
  ptqflow run -n                            what would run
  ptqflow run my-study --profile gpu-local  another folder, another profile
  ptqflow run --cores 8 --config run=all    any option of Snakemake's goes behind
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The study, the profile, and options of Snakemake's."""
    parser.usage = (
        "ptqflow run [STUDY] [--profile NAME] [options and targets of Snakemake]\n\n"
        "STUDY: a folder with config.yaml, or that file (default: this one)"
    )
    parser.add_argument(
        "--profile", default="local", help="where jobs run: a name in workflow/profiles, or a folder (default: local)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the study. Returns Snakemake's status."""
    named = bool(args.rest) and not args.rest[0].startswith("-")
    study, options = (study_folder(args.rest[0]), args.rest[1:]) if named else (Path(), args.rest)
    if not named:
        refuse_study_behind(options)
    status = workflow(study, args.profile, options)
    if status or asked.plans_only(options):
        return status
    _print_end(study)
    return 0


def workflow(study: Path, profile: str, options: Sequence[str]) -> int:
    """Run Snakemake on a study's folder. Returns the exit status.

    Raises ConfigError where another run of the study is active, its folder takes no files, or its configuration is no data.
    """
    folder = study.resolve()
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{study / CONFIG} does not exist; name the folder of a study, or make one with `ptqflow new {study}`")
    for file in (folder / CONFIG, *map(Path, configfile.named_in(options))):
        configfile.check(file)
    check_writable(folder)  # before Snakemake, which would print a traceback for each line that a full disk keeps out of its log
    files, options = configfile.taken_out(options)
    command = snakemake(folder, profile, files)
    if asked.plans_only(options):
        return subprocess.run([*command, *options], env=environment(), check=False).returncode
    with alone(folder) as lock, _interrupts_go_to_jobs() as (interrupts, started):
        if _unused(folder):
            subprocess.run([*command, "--unlock", "--quiet", "all"], env=environment(), capture_output=True, check=False)
        # Jobs write to their logs, Snakemake to its own; the console is the plugin's (standard error).
        command = snakemake(folder, profile, files, ["--logger", "ptqflow"])
        done = subprocess.Popen([*command, *options], env=environment(), stdout=subprocess.DEVNULL, pass_fds=[lock.fileno()])
        started.append(done.pid)
        status = done.wait()
        if status:
            print(why_it_ended(folder, status, interrupts), file=sys.stderr)
    return status


def snakemake(folder: Path, profile: str, files: Sequence[str] = (), first: Sequence[str] = ()) -> list[str]:
    """Snakemake on the study of a folder, up to the user's options; `files`: configuration laid over the study's and profile's.

    `first`: other options that take any number of values. These come first: a target that a user names must not count as one.
    """
    where = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return [sys.executable, "-m", "snakemake", *first, *profile_options(profile, files), *where]


def profile_options(profile: str, files: Sequence[str] = ()) -> list[str]:
    """Options that name a profile by its folder, wherever Snakemake is started, and its platform behind a user's own files.

    So the profile has the last word, whether or not the user's `--config` has taken the place of its own.
    """
    folder = profile_folder(profile)
    overlay = folder / profiles.OVERLAY
    files = [*files, *([str(overlay)] if overlay.is_file() else [])]
    return [*(["--configfile", *files] if files else []), "--profile", str(folder)]


def profile_folder(profile: str) -> Path:
    """The folder of a profile of this repository, by its name, or of another one. Raises ConfigError for what is neither."""
    if (PROFILES / profile).is_dir():
        return PROFILES / profile
    if not Path(profile).is_dir():
        known = ", ".join(sorted(path.name for path in PROFILES.iterdir() if path.is_dir()))
        raise ConfigError(f"--profile {profile}: no such profile; use one of {known}, or a folder with a profile.yaml")
    return Path(profile).resolve()


def environment() -> dict[str, str]:
    """Variables of Snakemake's process: this interpreter's commands first, so that no environment needs to be activated."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT / "workflow"),  # where Snakemake finds its plugin
    }


@contextmanager
def alone(folder: Path) -> Iterator[IO[str]]:
    """Hold the study's lock: two runs would write the same files. Jobs that outlive this process keep it."""
    (folder / ".ptqflow").mkdir(exist_ok=True)
    with open(folder / ".ptqflow/lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another run of this study is active in {folder}; wait for it or stop it") from None
        yield lock


def _unused(folder: Path) -> bool:
    """Whether no Snakemake of this study lives (see rules/common.smk): what it left locked, a killed one left."""
    with open(folder / ".ptqflow/active", "a") as active:
        try:
            fcntl.flock(active, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextmanager
def _interrupts_go_to_jobs() -> Iterator[tuple[list[int], list[int]]]:
    """Ctrl-C reaches Snakemake and its jobs by itself; SIGTERM reaches this process alone, which hands it on as Ctrl-C.

    Who waits for them goes on waiting, to say how it ended. Yields the signals that came, and a list for Snakemake's pid.
    """
    came, started = list[int](), list[int]()

    def pass_on(number: int, _: FrameType | None) -> None:
        came.append(number)
        told = list[psutil.Process]()  # parents first: one whose jobs end before it is told takes that for their end
        while number == signal.SIGTERM and (new := [process for process in _with_children(started) if process not in told]):
            for process in new:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGINT)
            told += new

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came, started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _with_children(pids: Sequence[int]) -> list[psutil.Process]:
    """The processes that live of these, and all that they started, parents first."""
    found = list[psutil.Process]()
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found


def why_it_ended(folder: Path, status: int, signals: Sequence[int]) -> str:
    """What a run that did not finish leaves, and how to go on. `signals`: those that came."""
    log = max((folder / ".snakemake/log").glob("*.log"), default=None, key=lambda path: path.stat().st_mtime)
    more = f" Snakemake's log: {log}." if log else ""
    stopped = "Ctrl-C" if signal.SIGINT in signals else "SIGTERM"
    ended = f"Stopped by {stopped}" if signals else f"The run ended early (status {status})"
    return f"{ended}. All jobs that are done are kept: the same command goes on where it ended.{more}"


def _print_end(study: Path) -> None:
    """Tables, warnings, and where checkpoints and the report lie."""
    for name in ("accuracy", "answer"):
        table = study / paths.table(name, "md")
        if table.is_file():
            print(table.read_text())
    for line in warnings(study):
        print(f"warning: {line}")
    for manifest in _checkpoints(study, "*.*"):
        size = sum(entry["bytes"] for entry in json.loads(manifest.read_text())["files"].values())
        print(f"checkpoint: {manifest.parent} ({size / 1e6:.1f} MB)")
    if (report := study / paths.REPORT).is_file():
        print(f"report: {report.resolve()}")


def warnings(study: Path) -> list[str]:
    """What the stages' logs say was not as asked, each once, and in how many places recipes were not followed."""
    logs: dict[str, list[str]] = {}
    for log in asked.of_logs(study, sorted((study / paths.ROOT / "logs").rglob("*.log"))):
        for line in warnings_of(log):
            logs.setdefault(line, []).append(str(log.relative_to(study)))
    found = [f"{first}{f' and {len(more)} more' if more else ''}: {line}" for line, (first, *more) in logs.items()]
    count = 0
    for manifest in _checkpoints(study, "*.fake"):
        count += sum(json.loads(manifest.read_text())["origin"].get("fallbacks", {}).values())
    return [*found, f"{count} fallback(s) in all: linears or blocks that are not as their recipe says"] if count else found


def _checkpoints(study: Path, variants: str) -> list[Path]:
    """Manifests of the checkpoints here that the study asks for, of any platform."""
    return asked.of_checkpoints(study, sorted(study.glob(paths.checkpoint("*", "*", variants))))
