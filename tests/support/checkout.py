"""A copy of the repository with a small study, and the real Snakemake on it: what would run, what did run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PROFILES = ("local", "gpu-local", "ascend-local", "slurm", "gpu", "ascend")
PARTS = ("Snakefile", "config.yaml", "workflow", "resources", *PROFILES)

SMALL_STUDY: dict[str, Any] = {
    "models": {"demo": {"source": {"path": "resources/demo-model"}, "chunks": 2}},
    "calibrations": {
        "traces": {
            "source": {"path": "resources/calibration/traces.jsonl"},
            "format": "chat",
            "samples": 4,
            "sequence_length": 128,
        }
    },
    "calibration": "traces",
    "recipes": {"rounded": {"preset": "rtn-w8a8"}, "second-order": {"preset": "gptq-w4a16"}},
    "tasks": {"text": {"benchmark": "text", "source": {"path": "resources/tasks/text"}, "window": 128, "limit": 8}},
    "suites": {"prose": {"tasks": ["text"]}},
    "latency": {"transformers": {"batch_sizes": [1], "prompt_tokens": [16], "new_tokens": 2, "warmup": 0, "repetitions": 1}},
}


def environment() -> dict[str, str]:
    """The environment of a user's shell with this Python's commands first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}


@dataclass(frozen=True)
class Checkout:
    """A copy of the repository at `root`."""

    root: Path

    @classmethod
    def create(cls, root: Path, study: Mapping[str, Any] | None = None) -> "Checkout":
        """Copy what a clone holds (symbolic links as links); `study` replaces config.yaml."""
        root.mkdir(parents=True)
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for part in PARTS:
            source = REPOSITORY / part
            if source.is_dir() and not source.is_symlink():
                shutil.copytree(source, root / part, symlinks=True, ignore=ignore)
            else:
                shutil.copy2(source, root / part, follow_symlinks=False)
        checkout = cls(root)
        if study is not None:
            checkout.write_config(study)
        return checkout

    def clone(self, root: Path) -> "Checkout":
        """A copy with all results, times of files kept: edits there leave this one alone."""
        shutil.copytree(self.root, root, symlinks=True)
        return Checkout(root)

    @property
    def config(self) -> dict[str, Any]:
        return dict(yaml.safe_load((self.root / "config.yaml").read_text()))

    def write_config(self, study: Mapping[str, Any]) -> None:
        (self.root / "config.yaml").write_text(yaml.safe_dump(dict(study), sort_keys=False))

    def configure(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Edit config.yaml by a function of its data."""
        study = self.config
        change(study)
        self.write_config(study)

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text in a file; the text must be there."""
        file = self.root / path
        text = file.read_text()
        assert old in text, f"{old!r} is not in {path}"
        file.write_text(text.replace(old, new, 1))

    def snakemake(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run Snakemake with the local profile, as a user would."""
        command = ["snakemake", "--profile", "local", "--cores", "2", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
        )

    def run(self, *arguments: str) -> set[str]:
        """Run to the end; the jobs that ran. Fails with Snakemake's own words."""
        done = self.snakemake(*arguments)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
        return jobs(done.stdout + done.stderr)

    def planned(self, *targets: str) -> set[str]:
        """The jobs that a dry run lists, of the whole study or of these files."""
        return self.run("-n", *targets)


def jobs(text: str) -> set[str]:
    """`rule` or `rule key=value ...` of each job in Snakemake's output (target rules left out)."""
    found = set()
    for block in re.split(r"\n(?=(?:local)?rule \w+:)", text):
        if (head := re.match(r"(?:local)?rule (\w+):", block)) and head[1] != "all":
            wildcards = re.search(r"^    wildcards: (.*)$", block, flags=re.MULTILINE)
            kept = [w for w in wildcards[1].split(", ") if not w.startswith(("platform=", "model="))] if wildcards else []
            found.add(" ".join([head[1], *kept]))
    return found
