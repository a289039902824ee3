"""What clusters do to a study, on a real Slurm (tests/cluster/check): nothing may be lost but what was running.

Each check counts the jobs that ran again and says what was lost.
"""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from cluster import CHUNKS, IMAGE, beside, processes, queued, run, set_partition, start, submissions, submitted, wait_for

pytestmark = pytest.mark.skipif(not IMAGE, reason="needs the cluster that tests/cluster/check brings up")

QUANTIZED = "results/cpu/quantized"
EXPORTED = "results/cpu/checkpoints/demo/second-order/fake/manifest.json"
ASKED = "results/cpu/generations/demo/baseline/transformers/sums/seed=0.parquet"


def test_a_cancelled_job_runs_again_alone(begun, seen):
    head = start(begun, *CHUNKS)
    subprocess.run(["scancel", wait_for(lambda: queued("quantize"))[0]], check=True)
    said = head.end()
    assert "CANCELLED" in said or "failed" in said
    assert len(submissions(said)) == 3, "the cancelled chunk, twice; the other, once"
    seen(said, begun, "the chunk of the cancelled job: 3 jobs for 2 chunks")


def test_completions_of_a_cancelled_job_are_kept(begun, seen):
    def ask(study):
        sums = {"benchmark": "problems", "source": {"path": "resources/tasks/arithmetic"}, "limit": 48, "max_new_tokens": 192}
        study["tasks"]["sums"] = sums
        study["suites"] = {"sums": {"tasks": ["sums"], "batch_size": 2}}

    begun.configure(ask)
    journal = begun.root / f"{ASKED}.parts"
    head = start(begun, ASKED)
    wait_for(lambda: sum(path.stat().st_size for path in journal.glob("*")) > 3000)
    subprocess.run(["scancel", queued("generate")[0]], check=True)
    said = head.end()
    log = (begun.root / "results/logs/cpu/generations/demo/baseline/transformers/sums").glob("*.log")
    kept = re.search(r"(\d+) results of a job that was cut off are kept", "".join(path.read_text() for path in log))
    assert kept
    assert 0 < int(kept[1]) < 48
    assert len(submissions(said)) == 2
    seen(said, begun, f"completions that were being written: {kept[1]} of 48 had been, and were kept")


def test_a_drained_node_ends_what_it_has_and_what_dies_with_it_is_waited_for(begun, seen):
    """An administrator drains the node, then shuts it down: the job dies, nothing starts until the node is back."""
    node = subprocess.run(["hostname", "-s"], capture_output=True, text=True, check=True).stdout.strip()
    head = start(begun, *CHUNKS)
    wait_for(lambda: processes(begun.root, "quantize"))
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=drain", "reason=test"], check=True)
    try:
        job = queued("quantize")[0]
        subprocess.run(["scancel", "--signal=KILL", job], check=True)
        wait_for(lambda: queued("quantize", "PD"))
        assert head.process.poll() is None, "the study waits for the node"
    finally:
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=True)
    said = head.end()
    assert len(submissions(said)) == 3
    seen(said, begun, "the chunk that was running; the other ran on; the study waited for the node")


def test_a_killed_head_goes_on_where_it_was(begun, seen):
    head = start(begun, *CHUNKS)
    wait_for(lambda: len(queued("quantize")) == 2)
    head.process.send_signal(signal.SIGKILL)
    head.process.wait()
    wait_for(lambda: not queued("quantize"), 900)  # jobs of the cluster run on
    assert all((begun.root / chunk).exists() for chunk in CHUNKS)
    assert run(begun, "--unlock").returncode == 0
    again = start(begun, *CHUNKS).end()
    repeated = len(submissions(again))
    seen(head.said() + again, begun, f"{repeated} of 2 chunks, which ended while no head was there")
    assert repeated <= 2


def test_memory_that_does_not_suffice_is_asked_for_anew(begun, seen):
    """Slurm kills what takes more than it asked for; the next attempt asks for half as much again."""
    said = start(begun, *CHUNKS, "--set-resources", "quantize:mem_mb=int(400*1.5**(attempt-1))").end()
    assert {"400", "600"} <= set(re.findall(r"mem_mb=(\d+)", said))
    seen(said, begun, "the chunks that took too much, each once more")


def test_a_job_that_hangs_ends_at_its_time_limit_and_the_next_has_more(begun, seen):
    head = start(begun, CHUNKS[0], "--set-resources", "quantize:runtime=attempt*10-9")
    for pid in wait_for(lambda: processes(begun.root, "quantize")):
        os.kill(pid, signal.SIGSTOP)
    said = head.end()
    assert "TIMEOUT" in said
    assert {"1", "11"} <= set(re.findall(r"runtime=(\d+)", said))
    seen(said, begun, "the chunk that hung")


def test_what_can_never_start_is_one_sentence_before_anything_is_submitted(study, seen):
    for change, words in [
        ({"device_partition": "fast"}, "this cluster has no partition fast"),
        ({"gres": "npu:910c"}, "no node of partition npu has npu:910c; it has"),
        ({"image": "/nowhere.sif"}, "image: /nowhere.sif does not exist"),
    ]:
        submitted(study.root, **change)
        refused = run(study)
        assert refused.returncode != 0
        assert words in refused.stdout, refused.stdout[-2000:]
        assert "has been submitted" not in refused.stdout
    submitted(study.root)
    study.configure(lambda c: c["calibrations"]["traces"].update(samples=100000, sequence_length=512))
    refused = run(study)
    assert refused.returncode != 0
    assert "no node of partition npu has more than" in refused.stdout, refused.stdout[-2000:]
    assert "has been submitted" not in refused.stdout
    seen(refused.stdout, study, "nothing: refused in one sentence, before anything is submitted")


def test_an_image_that_is_gone_when_a_job_starts_is_named_by_the_job(begun, seen):
    image = begun.root / "image"
    image.symlink_to(IMAGE)
    submitted(begun.root, image=str(image))
    set_partition("npu", "down")
    try:
        head = start(begun, CHUNKS[0], "--retries", "0")
        wait_for(lambda: queued("quantize", "PD"))
        image.unlink()
    finally:
        set_partition("npu", "up")
    assert head.process.wait(600) != 0
    logs = "".join(path.read_text() for path in (begun.root / ".snakemake/slurm_logs").rglob("*.log"))
    assert f"image: {image} does not exist" in logs, logs[-2000:]
    submitted(begun.root)
    again = start(begun, *CHUNKS).end()
    assert len(submissions(again)) == 2
    seen(head.said() + again, begun, "nothing: the job says which image")


def test_a_scratch_that_cannot_be_made_is_said_by_the_job(begun, tmp_path, seen):
    blocked = tmp_path / "blocked"
    blocked.touch()
    submitted(begun.root, scratch=f"{blocked}/x")
    refused = run(begun, CHUNKS[0], "--retries", "0")
    assert refused.returncode != 0
    logs = "".join(path.read_text() for path in (begun.root / ".snakemake/slurm_logs").rglob("*.log"))
    assert re.search("scratch: .* cannot be made", logs), logs[-2000:]
    seen(refused.stdout, begun, "nothing: the job says which folder, on which node")


def test_a_full_scratch_is_said_by_the_job(begun, tmp_path, seen):
    full = tmp_path / "full"
    full.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "full", str(full)], check=False).returncode != 0:
        pytest.skip("cannot mount a small file system here")
    try:
        submitted(begun.root, scratch=str(full))
        refused = run(begun, CHUNKS[0], "--retries", "0")
    finally:
        subprocess.run(["umount", "--lazy", str(full)], check=True)
    assert refused.returncode != 0
    logs = "".join(path.read_text() for path in (begun.root / ".snakemake/slurm_logs").rglob("*.log"))
    assert re.search("scratch: .* is full on", logs), logs[-2000:]
    seen(refused.stdout, begun, "nothing: the job says which folder, on which node")


def test_files_that_appear_seconds_late_are_waited_for(begun, seen):
    """The head sees `results` of another file system, onto which what nodes write comes 8 seconds later."""
    nodes, late = begun.root / "results", begun.root / "late"
    shutil.copytree(nodes, late, symlinks=True)

    def mirror() -> None:
        for path in [path for path in nodes.rglob("*") if path.is_file()]:
            there, stat = late / path.relative_to(nodes), path.stat()
            known = there.exists() and there.stat().st_mtime_ns == stat.st_mtime_ns
            if not known and time.time() - stat.st_mtime > 8:
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, f"{there}.copy")
                os.replace(f"{there}.copy", there)

    view = f'mount --make-rprivate / && mount --bind {late} {nodes} && exec "$0" "$@"'
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("cannot make a view of the file system of its own here")
    with beside(mirror):
        said = start(begun, EXPORTED, before=("unshare", "--mount", "bash", "-c", view)).end()
    assert len(submissions(said)) == 3, "two chunks and the checkpoint that is made of them, each once"
    seen(said, begun, "nothing: waited for (`latency-wait`)")


def test_clocks_apart_run_nothing_again(begun, seen):
    """Times of files are those of nodes whose clocks are an hour behind or ahead: contents say what is new."""

    def behind() -> None:
        for path in (begun.root / QUANTIZED).rglob("*.safetensors"):
            if time.time() - path.stat().st_mtime < 1800:
                os.utime(path, (time.time() - 3600, time.time() - 3600))

    with beside(behind, 0.1):
        said = start(begun, EXPORTED).end()
    assert len(submissions(said)) == 3
    for number, path in enumerate(path for path in sorted((begun.root / "results").rglob("*")) if path.is_file()):
        moved = time.time() + 3600 * (-1) ** number
        os.utime(path, (moved, moved))
    again = run(begun, "-n", EXPORTED)
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout, again.stdout[-3000:]
    seen(said, begun, "nothing: files an hour behind and ahead; nothing ran again")
