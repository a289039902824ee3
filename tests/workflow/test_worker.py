"""A worker's limits are no more than its parent's, and one that cannot start is memory, not a fault of what it is asked."""

import math
import subprocess
import sys

import pytest
from interrupt import environment
from ptqflow import worker

LIMITED = """
import math, resource
resource.setrlimit(resource.RLIMIT_AS, ({0}, {0}))
from ptqflow.worker import Worker
print(Worker(math.gcd, 1, 4, 6)(8, 12))
"""


def test_a_worker_runs_where_its_parent_has_less_memory_than_it_may_have():
    command = [sys.executable, "-c", LIMITED.format(worker.BYTES // 8)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout == "4\n", done.stderr


def test_a_worker_that_cannot_start_is_memory(monkeypatch):
    monkeypatch.setattr(worker.sys, "executable", "/bin/false")
    with pytest.raises(MemoryError, match="did not start"):
        worker.Worker(math.gcd, 1, 4, 6)(8, 12)


def test_one_that_ends_is_said_and_the_next_call_starts_anew():
    asked = worker.Worker(math.factorial, 1, 3)
    with pytest.raises(worker.WorkerEndedError, match="ended with 1"):
        asked(-1)
    with pytest.raises(worker.OutOfTimeError, match=r"more than 1 s"):
        asked(10**9)
    assert asked(5) == 120
