"""A real Slurm of one node with stand-ins for devices, and a real container: tests/cluster/check brings both up and runs this.

Each fault says what was lost: the second run may repeat nothing but what was running.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from checkout import SMALL_STUDY, Checkout, environment

IMAGE = os.environ.get("PTQFLOW_CLUSTER_IMAGE", "")
pytestmark = pytest.mark.skipif(not IMAGE, reason="needs the cluster that tests/cluster/check brings up")

STUDY = SMALL_STUDY | {"latency": {}, "recipes": {"second-order": {"preset": "gptq-w4a16"}}}
CHUNKS = [f"results/cpu/quantized/demo/second-order/chunk={k}/qparams.safetensors" for k in range(2)]
TIMED = {"seconds", "peak_bytes", "generated_at"}  # columns that differ between two runs


def submitted(root: Path, profile: str = "ascend", **changes: Any) -> Path:
    """Write the site of this cluster; `changes` are keys of `slurm`, or of the site where they are no such key."""
    device = {"ascend": ("npu", "npu:910b"), "gpu": ("gpu", "gpu:fake")}[profile]
    slurm = {"partition": "cpu", "device_partition": device[0], "account": "default", "gres": device[1], "head": ["fetch"]}
    site = {"image": IMAGE, "binds": [str(root)], "scratch": "/tmp/ptqflow-scratch-$USER", "stand_in": True}
    slurm |= {key: value for key, value in changes.items() if key in slurm}
    site |= {key: value for key, value in changes.items() if key not in slurm}
    path = root / "site.yaml"
    path.write_text(yaml.safe_dump({"slurm": slurm} | site))
    return path


def command(profile: str, *options: str) -> list[str]:
    return ["snakemake", "--profile", profile, *options]


def run(study: Checkout, profile: str = "ascend", *options: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(profile, *options),
        cwd=study.root,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start(study: Checkout, *options: str) -> subprocess.Popen[str]:
    with open(study.root / "head.log", "w") as log:
        return subprocess.Popen(
            command("ascend", *options), cwd=study.root, env=environment(), stdout=log, stderr=subprocess.STDOUT, text=True
        )


def wait_for(found: Callable[[], Any], seconds: float = 120) -> Any:
    """What `found` finds within a time, polled."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"{found} found nothing in {seconds} s"
        time.sleep(0.3)
    return value


def running(stage: str) -> str:
    """Slurm's id of a running job of a rule; empty where there is none. The plugin names the rule in the comment."""
    said = subprocess.run(["squeue", "-h", "-t", "R", "-o", "%i %k"], capture_output=True, text=True, check=True).stdout
    return next((line.split()[0] for line in said.splitlines() if f"rule_{stage}" in line), "")


def processes(root: Path, stage: str) -> list[int]:
    """Processes of a stage that run in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if b"ptqflow" in words and stage.encode() in words and os.readlink(path / "cwd") == str(root):
                found.append(int(path.name))
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Checkout:
    """The study on this machine, to its end."""
    study = Checkout.create(tmp_path_factory.mktemp("local") / "study", STUDY)
    study.run()
    return study


@pytest.fixture
def study(tmp_path) -> Checkout:
    """A study on the cluster, nothing of it run."""
    study = Checkout.create(tmp_path / "study", STUDY)
    submitted(study.root)
    return study


@pytest.fixture
def begun(local, tmp_path) -> Checkout:
    """The study with all of its first stages done, on the cluster; chunks are to be quantized."""
    study = local.clone(tmp_path / "begun")
    shutil.rmtree(study.root / "results/cpu/quantized")
    submitted(study.root)
    return study


@pytest.mark.parametrize("profile", ["ascend", "gpu"])
def test_a_study_on_the_cluster_is_the_study_on_one_machine(profile, study, local):
    submitted(study.root, profile)
    done = run(study, profile)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    said = done.stdout + done.stderr
    ids = set(re.findall(r"Job \d+ has been submitted with SLURM jobid (\d+)", said))
    assert len(ids) >= 10
    variable = {"ascend": "ASCEND_RT_VISIBLE_DEVICES", "gpu": "CUDA_VISIBLE_DEVICES"}[profile]
    logs = {path: path.read_text() for path in (study.root / "results/logs").rglob("*.log")}
    seen = {
        path: m[1] for path, text in logs.items() if (m := re.search(rf"devices: {variable}=(\d)(?= on \S+, Slurm job)", text))
    }
    print(f"\n{profile}: {len(ids)} Slurm jobs in {Path(IMAGE).name}; devices", *sorted(seen.values()))
    assert len(seen) == 6, "collect, 2 chunks, verify and 2 tasks, each with one device"
    assert set(seen.values()) == {"0", "1"}, "jobs that ran at once saw different devices"
    for path in (local.root / "results/tables").glob("*.parquet"):
        mine, theirs = (pq.read_table(root / "results/tables" / path.name) for root in (study.root, local.root))
        kept = [name for name in theirs.column_names if name not in TIMED and "bytes" not in name]
        assert mine.select(kept).equals(theirs.select(kept)), path.name
    assert not list(study.root.glob("results/ascend*")), "a stand-in's results are the CPU's"


def test_a_cancelled_job_runs_again_alone(begun):
    head = start(begun, *CHUNKS)
    subprocess.run(["scancel", wait_for(lambda: running("quantize"))], check=True)
    assert head.wait(600) == 0, (begun.root / "head.log").read_text()[-3000:]
    said = (begun.root / "head.log").read_text()
    assert "CANCELLED" in said or "failed" in said
    print(f"\nscancel: {len(re.findall('has been submitted', said))} jobs for 2 chunks")
    assert len(re.findall("has been submitted", said)) == 3, "the cancelled chunk, twice; the other, once"


def test_a_drained_node_runs_what_it_has_and_a_failed_one_is_waited_for(begun):
    node = subprocess.run(["hostname", "-s"], capture_output=True, text=True, check=True).stdout.strip()
    head = start(begun, *CHUNKS)
    job = wait_for(lambda: running("quantize"))
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=drain", "reason=test"], check=True)
    try:
        subprocess.run(["scancel", "--signal=KILL", job], check=False)  # what dies with a node that is shut down
        time.sleep(15)
        assert head.poll() is None, "the study waits for the node"
    finally:
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=True)
    assert head.wait(600) == 0, (begun.root / "head.log").read_text()[-3000:]


def test_a_killed_head_goes_on_where_it_was(begun):
    head = start(begun, *CHUNKS)
    wait_for(lambda: running("quantize"))
    head.send_signal(signal.SIGKILL)
    head.wait()
    wait_for(lambda: not running("quantize"), 300)  # jobs of the cluster run on
    unlock = run(begun, "ascend", "--unlock")
    assert unlock.returncode == 0, unlock.stderr
    again = run(begun, "ascend", *CHUNKS)
    assert again.returncode == 0, (again.stdout + again.stderr)[-3000:]
    assert len(re.findall("has been submitted", again.stdout + again.stderr)) <= 2


def test_memory_that_does_not_suffice_is_asked_for_anew(begun):
    """Slurm kills what takes more than it asked for; the next attempt asks for half as much again."""
    option = [*CHUNKS, "--set-resources", "quantize:mem_mb=int(400*1.5**(attempt-1))"]
    head = run(begun, "ascend", *option)
    said = head.stdout + head.stderr
    asked = re.findall(r"mem_mb=(\d+)", said)
    print("\nout of memory: asked for", *dict.fromkeys(asked))
    assert head.returncode == 0, said[-3000:]
    assert {"400", "600"} <= set(asked)


def test_a_job_that_hangs_ends_at_its_time_limit_and_the_next_has_more(begun):
    head = start(begun, *CHUNKS, "--set-resources", "quantize:runtime=attempt*10-9")
    hung = wait_for(lambda: processes(begun.root, "quantize"))
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    assert head.wait(900) == 0, (begun.root / "head.log").read_text()[-3000:]
    said = (begun.root / "head.log").read_text()
    print("\ntime limit:", *dict.fromkeys(re.findall(r"runtime=\d+|TIMEOUT", said)))
    assert "TIMEOUT" in said
    assert {"1", "11"} <= set(re.findall(r"runtime=(\d+)", said))


def test_what_can_never_start_is_one_sentence_before_anything_is_submitted(study):
    for change, words in [
        ({"device_partition": "fast"}, "this cluster has no partition fast"),
        ({"gres": "npu:910c"}, "no node of partition npu has npu:910c; it has"),
        ({"image": "/nowhere.sif"}, "image: /nowhere.sif does not exist"),
    ]:
        submitted(study.root, **change)
        refused = run(study)
        said = refused.stdout + refused.stderr
        assert refused.returncode != 0
        assert words in said, said[-2000:]
        assert "has been submitted" not in said
    submitted(study.root)
    study.configure(lambda c: c["calibrations"]["traces"].update(samples=100000, sequence_length=512))
    refused = run(study)
    said = refused.stdout + refused.stderr
    assert "no node of partition npu has more than" in said, said[-2000:]
    assert "has been submitted" not in said


def test_a_full_scratch_is_said_by_the_job(begun, tmp_path):
    """Nothing of a result lies in scratch: a job that needs none of it does not mind; one that cannot make it says so."""
    blocked = tmp_path / "blocked"
    blocked.touch()
    submitted(begun.root, scratch=f"{blocked}/x")
    refused = run(begun, "ascend", *CHUNKS, "--retries", "0")
    assert refused.returncode != 0
    logs = "".join(path.read_text() for path in (begun.root / ".snakemake/slurm_logs").rglob("*.log"))
    assert re.search("scratch: .* cannot be made", logs), logs[-2000:]
    submitted(begun.root)
    assert run(begun, "ascend", *CHUNKS).returncode == 0


def test_the_workflow_is_in_good_condition(study):
    done = run(study, "ascend", "--lint")
    assert "Congratulations" in done.stdout + done.stderr, done.stdout + done.stderr
