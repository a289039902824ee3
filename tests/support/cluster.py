"""The literal `snakemake --profile ascend` on the cluster that tests/cluster/check brings up, and what was seen of it."""

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from checkout import SMALL_STUDY, Checkout, environment

IMAGE = os.environ.get("PTQFLOW_CLUSTER_IMAGE", "")
NODES = int(os.environ.get("PTQFLOW_CLUSTER_NODES", "1"))
STUDY = SMALL_STUDY | {"latency": {}, "recipes": {"second-order": {"preset": "gptq-w4a16"}}}
CHUNKS = [f"results/cpu/quantized/demo/second-order/chunk={k}/qparams.safetensors" for k in range(2)]
DEVICES = {"ascend": ("npu", "npu:910b", "ASCEND_RT_VISIBLE_DEVICES"), "gpu": ("gpu", "gpu:fake", "CUDA_VISIBLE_DEVICES")}


def submitted(root: Path, profile: str = "ascend", **changes: Any) -> Path:
    """Write the site of this cluster; `changes` are keys of `slurm`, or of the site where they are no such key."""
    partition, gres, _ = DEVICES[profile]
    slurm = {"partition": "cpu", "device_partition": partition, "account": "default", "gres": gres, "head": ["fetch"]}
    site = {"image": IMAGE, "binds": [str(root)], "scratch": "/tmp/ptqflow-scratch-$USER", "stand_in": True}
    slurm |= {key: value for key, value in changes.items() if key in slurm}
    site |= {key: value for key, value in changes.items() if key not in slurm}
    path = root / "site.yaml"
    path.write_text(yaml.safe_dump({"slurm": slurm} | site))
    return path


@dataclass
class Head:
    """A Snakemake that submits; what it says goes to `log`."""

    process: subprocess.Popen[str]
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def end(self, seconds: float = 1500) -> str:
        """What it said, once it ended well."""
        assert self.process.wait(seconds) == 0, self.said()[-4000:]
        return self.said()


def start(study: Checkout, *options: str, profile: str = "ascend", before: tuple[str, ...] = ()) -> Head:
    """`snakemake --profile` on a study; `before`: words of a command that runs it."""
    log = study.root / f"head-{time.monotonic_ns()}.log"
    command = [*before, "snakemake", "--profile", profile, *options]
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=study.root, env=environment(), stdout=file, stderr=subprocess.STDOUT, text=True)
    return Head(process, log)


def run(study: Checkout, *options: str, profile: str = "ascend") -> subprocess.CompletedProcess[str]:
    """The same to its end, however it ends; all that it said is `stdout`."""
    head = start(study, *options, profile=profile)
    return subprocess.CompletedProcess(head.process.args, head.process.wait(1500), head.said())


def wait_for(found: Callable[[], Any], seconds: float = 300) -> Any:
    """What `found` finds within a time, polled."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"{found} found nothing in {seconds} s"
        time.sleep(0.3)
    return value


def queued(rule: str, state: str = "R") -> list[str]:
    """Slurm's ids of the jobs of a rule in a state; the plugin names the rule in the comment."""
    said = subprocess.run(["squeue", "-h", "-t", state, "-o", "%i %k"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in said.splitlines() if f"rule_{rule}" in line]


def processes(root: Path, stage: str) -> list[int]:
    """Processes of a stage that run in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if b"ptqflow" in words and stage.encode() in words and os.readlink(path / "cwd") == str(root):
                found.append(int(path.name))
    return found


def submissions(said: str) -> list[str]:
    """Slurm's ids of what a head submitted, in order."""
    return re.findall(r"has been submitted with SLURM jobid (\d+)", said)


def devices(root: Path, profile: str = "ascend") -> dict[str, str]:
    """Devices that each job saw, by its log."""
    line = re.compile(rf"devices: {DEVICES[profile][2]}=([\d,]+)(?= on \S+, Slurm job)")
    logs = sorted((root / "results/logs").rglob("*.log"))
    return {str(path.relative_to(root)): m[1] for path in logs if (m := line.search(path.read_text()))}


@contextmanager
def beside(step: Callable[[], None], seconds: float = 0.5) -> Iterator[None]:
    """Repeat a step in a thread meanwhile."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            with suppress(OSError):
                step()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def set_partition(name: str, state: str) -> None:
    """A partition that is down takes jobs and starts none."""
    subprocess.run(["scontrol", "update", f"partitionname={name}", f"state={state}"], check=True)
