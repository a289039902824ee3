"""kill -9 at any moment, then the same command again: it finishes, and nothing half-written is ever taken for whole."""

import fcntl
import hashlib
import os
import random
import signal
import subprocess
import time

import pytest
from checkout import SMALL_STUDY, Checkout, environment


def contents(checkout: Checkout) -> dict[str, str]:
    """sha256 of every result that is a pure function of its inputs (no timings, no logs)."""
    results = checkout.root / "results"
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("models/**/*", "calibration/**/tokens.parquet", "cpu/quantized/**/*.safetensors", "cpu/checkpoints/**/*")
        for path in sorted(results.glob(pattern))
        if path.is_file()
    }


@pytest.mark.parametrize("round_", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 5))])
def test_killed_workflow_finishes_with_the_same_results(finished: Checkout, tmp_path, round_):
    """The whole process group (Snakemake and its stages) is killed at random moments, several times."""
    study = Checkout.create(tmp_path / "checkout", SMALL_STUDY)
    generator = random.Random(round_)
    command = ["workflow/run-study", "--profile", "local", "--cores", "2", "--until", "export"]
    for _ in range(4 if round_ else 2):
        process = subprocess.Popen(
            command,
            cwd=study.root,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(generator.uniform(1.0, 14.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(["snakemake", "--unlock"], cwd=study.root, env=environment(), capture_output=True, check=True)
    study.run("--until", "export")
    assert contents(study) == contents(finished)
    assert not list(study.root.glob("results/**/.*.tmp"))


def test_run_study_removes_the_lock_of_a_killed_run_and_leaves_that_of_an_active_one(tmp_path):
    study = Checkout.create(tmp_path / "checkout", SMALL_STUDY)
    command = ["workflow/run-study", "--profile", "local", "--cores", "1", "--until", "fetch"]
    lock = study.root / ".snakemake/locks/0.output.lock"

    def run_study() -> str:
        done = subprocess.run(command, cwd=study.root, env=environment(), capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    lock.parent.mkdir(parents=True)
    lock.write_text("results/models/demo/manifest.json\n")
    study.planned()  # a Snakemake that makes the file of active ones
    with open(study.root / ".ptqflow/active") as held:  # as every Snakemake of the study does
        fcntl.flock(held, fcntl.LOCK_SH)
        assert "cannot be locked" in run_study()
        assert lock.exists()
    assert "cannot be locked" not in run_study()
    assert (study.root / "results/models/demo/manifest.json").exists()
