"""Each process sees devices of its own, and a device is free again however its process ended."""

import os
import signal
import subprocess
import sys
import time

import pytest
from ptqflow.devices import visible
from ptqflow.errors import ConfigError

HOLD = """
import os, sys, time
from pathlib import Path
from ptqflow.devices import visible
visible.PLACE = Path(sys.argv[1])
visible.claim(sys.argv[2], int(sys.argv[3]))
print(os.environ.get(visible.VARIABLES.get(sys.argv[2], "")), flush=True)
time.sleep(float(sys.argv[4]))
"""


@pytest.fixture
def holder(tmp_path):
    """Start processes that claim devices; what each sees is its first line."""
    started = []

    def start(platform="ascend", count=1, hold=60.0, known="0,1", slots=1, **of_job):
        named = dict.fromkeys(visible.VARIABLES.values(), known)
        environment = os.environ | named | {"PTQFLOW_JOBS_PER_DEVICE": str(slots)} | of_job
        command = [sys.executable, "-c", HOLD, str(tmp_path / "locks"), platform, str(count), str(hold)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def seen(process):
    return process.stdout.readline().strip()


def test_processes_see_distinct_devices_and_a_killed_one_leaves_its_own(holder):
    first = holder()
    assert seen(first) == "0"
    second = holder()
    assert seen(second) == "1"
    third = holder()
    assert "waiting for 1 of the devices 0, 1" in third.stderr.readline()
    first.send_signal(signal.SIGKILL)
    assert seen(third) == "0"


@pytest.mark.parametrize("named", ["0, 1", "0,1,", "0,0,1"])
def test_a_device_is_one_however_it_is_written(monkeypatch, named):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible.devices("gpu") == ["0", "1"]


def test_several_devices_are_claimed_together(holder):
    one = holder(hold=1.0)
    assert seen(one) == "0"
    start = time.monotonic()
    pair = holder(count=2)
    assert seen(pair) == "0,1"
    assert time.monotonic() - start < 30


def test_a_scheduler_says_what_there_is_and_a_cpu_has_no_slots(holder):
    assert seen(holder(known="6,7")) == "6"
    assert seen(holder(platform="cpu", known="6")) == "None"


def test_a_device_may_be_shared_by_as_many_as_are_allowed(holder):
    assert [seen(holder(slots=2)) for _ in range(4)] == ["0", "1", "0", "1"]
    assert "waiting" in holder(slots=2).stderr.readline()


def test_jobs_of_slurm_choose_among_a_machines_devices_unless_it_gave_each_its_own(holder):
    assert [seen(holder(SLURM_JOB_ID=job)) for job in "78"] == ["0", "1"]
    assert [seen(holder(SLURM_JOB_ID=job, PTQFLOW_DEVICES_OF=job)) for job in "78"] == ["0", "0"]
    assert [seen(holder("gpu", known="0", SLURM_JOB_ID=job, SLURM_STEP_GPUS=job)) for job in "78"] == ["0", "0"]


def test_more_devices_than_there_are_and_a_share_that_is_no_number_are_refused(monkeypatch):
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ConfigError, match=r"asks for 3 devices, but .* has 2 of ascend \(0, 1\); use a tensor_parallel"):
        visible.claim("ascend", 3)
    for said in ("x", "0", "-1", "1.5"):
        monkeypatch.setenv(visible.SHARED_BY, said)
        with pytest.raises(ConfigError, match=rf"^PTQFLOW_JOBS_PER_DEVICE={said}: a whole number of 1 or more"):
            visible.slots()
