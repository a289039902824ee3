"""Laws of jobs that share what they load: each is what it would be alone, and ends with who waits for it and with its run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from interrupt import environment
from ptqflow import cli, warm

# A run as the Snakefile announces it, that lives until its standard input is closed.
RUN = """
import json, os, sys
from ptqflow import warm
warm.announce(json.loads(sys.argv[1]))
print(os.environ[warm.VARIABLE], flush=True)
sys.stdin.read()
"""


class Run:
    """A run with these planned jobs, stage -> count."""

    def __init__(self, **jobs: int) -> None:
        variables = environment()
        variables.pop(warm.VARIABLE, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, json.dumps(jobs)], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.folder = Path(self.process.stdout.readline().strip())
        self.variables = variables | {warm.VARIABLE: str(self.folder)}

    def start(self, *words: str, **options) -> subprocess.Popen:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-m", "ptqflow", *words], env=self.variables, **(streams | options))

    def processes(self) -> list[int]:
        """The warm processes of this run and their children."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self.folder).encode() in words:
                found.append(int(entry.name))
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def run():
    run = Run(score=2, plot=1, verify=1)
    yield run
    run.end()
    assert within(10, lambda: not run.processes()), "a warm process outlived its run"


def within(seconds, condition):
    end = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return holds


def alone(*words):
    return subprocess.run(
        [sys.executable, "-m", "ptqflow", *words], env=environment(**{warm.VARIABLE: "off"}), capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "words", [("score", "--help"), ("score", "--nonsense"), ("score", "--settings", "{", "--generations", "x", "--output", "y")]
)
def test_a_job_says_and_returns_what_it_would_alone(run, words):
    job = run.start(*words)
    said = job.communicate(timeout=60)
    expected = alone(*words)
    assert (job.returncode, *said) == (expected.returncode, expected.stdout, expected.stderr)
    assert len(run.processes()) == 1


def test_what_one_job_alone_loads_is_not_shared(run):
    stages = json.loads((run.folder / "run.json").read_text())["stages"]
    assert "score" in stages
    assert "verify" not in stages


def test_jobs_with_other_variables_have_a_process_of_their_own(run):
    there = {path.name for path in run.folder.iterdir() if path.is_socket()}
    other = subprocess.Popen(
        [sys.executable, "-m", "ptqflow", "score", "--help"],
        env=run.variables | {"OMP_NUM_THREADS": "2"},
        stdout=subprocess.DEVNULL,
    )
    assert other.wait(60) == 0
    assert len({path.name for path in run.folder.iterdir() if path.is_socket()} - there) == 1


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_job_ends_with_who_waits_for_it(run, tmp_path, ending):
    os.mkfifo(tmp_path / "settings")  # reading it takes for ever
    before = len(run.processes())
    job = run.start("score", "--settings", f"@{tmp_path / 'settings'}", "--generations", "x", "--output", "y")
    assert within(60, lambda: len(run.processes()) > before)
    job.send_signal(ending)
    assert job.wait(10) == -ending
    assert within(10, lambda: len(run.processes()) == before)


def test_a_job_that_a_signal_ends_ends_so_for_who_waits(run, tmp_path):
    os.mkfifo(tmp_path / "settings")
    before = set(run.processes())
    job = run.start("score", "--settings", f"@{tmp_path / 'settings'}", "--generations", "x", "--output", "y")
    assert within(60, lambda: set(run.processes()) - before)
    (child,) = set(run.processes()) - before
    os.kill(child, signal.SIGSEGV)
    assert job.wait(10) == -signal.SIGSEGV


def test_every_stage_says_what_it_loads():
    assert set(warm._OF_STAGES) == set(cli.STAGES)
