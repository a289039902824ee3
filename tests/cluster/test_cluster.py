"""A real Slurm of one node with stand-ins for devices, and a real container: tests/cluster/check brings both up and runs this."""

import pyarrow.parquet as pq
import pytest
import torch
from cluster import CHUNKS, IMAGE, devices, run, start, submissions, submitted
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(not IMAGE, reason="needs the cluster that tests/cluster/check brings up")

# Columns that differ between two runs: how long it took, and what files record of the software (in an image our code is mounted).
TIMED = {"seconds", "quantize_seconds", "seconds_ratio", "tokens_per_second", "generated_at", "share", "detail"}


@pytest.mark.parametrize("profile", ["ascend", "gpu"])
def test_a_study_on_the_cluster_is_the_study_on_one_machine(profile, study, local, seen):
    submitted(study.root, profile)
    said = start(study, profile=profile).end()
    assert len(submissions(said)) >= 10
    given = devices(study.root, profile)
    seen(said, study, "nothing", profile)
    assert len(given) == 7, "selftest, collect, 2 chunks, verify and 2 tasks, each with one device"
    assert set(given.values()) == {"0", "1"}, "jobs that ran at once saw different devices"
    for path in (local.root / "results/tables").glob("*.parquet"):
        mine, theirs = (pq.read_table(root / "results/tables" / path.name) for root in (study.root, local.root))
        kept = [name for name in theirs.column_names if name not in TIMED and "bytes" not in name]
        assert mine.select(kept).equals(theirs.select(kept)), path.name
    for path in sorted((local.root / "results/cpu/quantized").rglob("qparams.safetensors")):
        name = path.relative_to(local.root)
        mine, theirs = load_file(study.root / name), load_file(path)
        assert mine.keys() == theirs.keys(), name
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), f"{name}: the integers and scales are the same"
    assert not list(study.root.glob("results/ascend*")), "a stand-in's results are the CPU's"


def test_two_studies_at_once_share_the_devices(begun, tmp_path, seen):
    other = begun.clone(tmp_path / "other")
    submitted(other.root)
    heads = [start(begun, *CHUNKS), start(other, *CHUNKS)]
    said = "".join(head.end() for head in heads)
    assert len(submissions(said)) == 4
    given = {**devices(begun.root), **{f"other/{key}": value for key, value in devices(other.root).items()}}
    assert len(given) == 4
    assert set(given.values()) == {"0", "1"}
    for chunk in CHUNKS:
        assert (begun.root / chunk).read_bytes() == (other.root / chunk).read_bytes()
    seen(said, begun, "nothing")


def test_a_container_that_lets_no_environment_in_runs_the_jobs_too(begun, seen):
    submitted(begun.root, environment={"APPTAINER_CLEANENV": "1"})
    said = start(begun, CHUNKS[0]).end()
    assert len(devices(begun.root)) == 1
    seen(said, begun, "nothing: `--cleanenv`")


def test_the_workflow_is_in_good_condition(study):
    done = run(study, "--lint")
    assert "Congratulations" in done.stdout, done.stdout
