"""kill -9 at any moment, then the same command again: it finishes, and nothing half-written is ever taken for whole."""

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
        for pattern in ("models/**/*", "calibration/**/*", "cpu/quantized/**/*.safetensors", "cpu/checkpoints/**/*")
        for path in sorted(results.glob(pattern))
        if path.is_file()
    }


@pytest.mark.parametrize("round_", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 5))])
def test_killed_workflow_finishes_with_the_same_results(finished: Checkout, tmp_path, round_):
    """The whole process group (Snakemake and its stages) is killed at random moments, several times."""
    study = Checkout.create(tmp_path / "checkout", SMALL_STUDY)
    generator = random.Random(round_)
    command = ["workflow/run-study", "--profile", "local", "--cores", "2", "--until", "export"]
    for _ in range(4):
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
