"""Two nodes with one stand-in for an NPU each (two slurmd on one machine): jobs spread, and move when a node goes away."""

import subprocess

import pytest
from cluster import CHUNKS, IMAGE, NODES, processes, queued, start, submissions, wait_for

pytestmark = pytest.mark.skipif(
    not IMAGE or NODES < 2, reason="needs the cluster of two nodes that tests/cluster/check brings up"
)


def nodes(ids: list[str]) -> dict[str, str]:
    """Node of each Slurm job."""
    said = subprocess.run(
        ["sacct", "-X", "-n", "-P", "-o", "JobID,NodeList", "-j", ",".join(ids)], capture_output=True, text=True
    )
    return dict(line.split("|") for line in said.stdout.splitlines())


def test_chunks_spread_over_two_nodes(begun, seen):
    said = start(begun, *CHUNKS).end()
    found = nodes(submissions(said))
    assert len(found) == len(set(found.values())) == 2, found
    seen(said, begun, f"nothing: one chunk on each of {', '.join(sorted(found.values()))}")


def test_a_job_of_a_node_that_goes_away_runs_again_on_the_other(begun, seen):
    head = start(begun, *CHUNKS)
    wait_for(lambda: len(processes(begun.root, "quantize")) > 0)
    job = queued("quantize")[0]
    (gone,) = nodes([job]).values()
    subprocess.run(["scontrol", "update", f"nodename={gone}", "state=drain", "reason=test"], check=True)
    try:
        subprocess.run(["scancel", "--signal=KILL", job], check=True)
        said = head.end()
    finally:
        subprocess.run(["scontrol", "update", f"nodename={gone}", "state=resume"], check=True)
    ids = submissions(said)
    assert len(ids) == 3, "the chunk of the node that went away, twice; the other, once"
    assert nodes([ids[-1]])[ids[-1]] != gone
    seen(said, begun, f"the chunk that ran on {gone}; it ran again on {nodes([ids[-1]])[ids[-1]]}")
