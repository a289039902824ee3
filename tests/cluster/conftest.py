"""Studies on the cluster, and the table of what was seen: Slurm jobs, devices, image, memory asked for, what was lost."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import Checkout
from cluster import IMAGE, NODES, STUDY, devices, submissions, submitted

COLUMNS = ("check", "Slurm jobs", "devices of its jobs", "image", "memory asked for (MB)", "lost")
SEEN = pytest.StashKey[list[tuple[str, ...]]]()


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def collected(tmp_path_factory) -> Checkout:
    """The study's first stages on this machine."""
    study = Checkout.create(tmp_path_factory.mktemp("collected") / "study", STUDY)
    study.run("--until", "collect")
    return study


@pytest.fixture
def begun(collected, tmp_path) -> Checkout:
    """The study with its first stages done, on the cluster; chunks are to be quantized."""
    study = collected.clone(tmp_path / "begun")
    shutil.rmtree(study.root / "results/logs")
    submitted(study.root)
    return study


@pytest.fixture
def seen(request) -> Callable[..., None]:
    """Add a row to the table: what heads said, the study, and what was lost."""

    def add(said: str, study: Checkout, lost: str, profile: str = "ascend") -> None:
        ids = submissions(said)
        jobs = f"{len(ids)}: {ids[0]}-{ids[-1]}" if ids else "0"
        asked = ", ".join(dict.fromkeys(re.findall(r"\bmem_mb=(\d+)", said))) or "-"
        found = ", ".join(devices(study.root, profile).values()) or "-"
        row = (request.node.name.removeprefix("test_"), jobs, found, Path(IMAGE).name, asked, lost)
        request.config.stash.setdefault(SEEN, []).append(row)

    return add


def pytest_terminal_summary(terminalreporter, config):
    """The table, at the end and as build/cluster.md (of two nodes: build/cluster-2.md)."""
    if not (rows := config.stash.get(SEEN, [])):
        return
    lines = ["| " + " | ".join(row) + " |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    terminalreporter.section("on the cluster")
    for line in lines:
        terminalreporter.write_line(line)
    path = Path(config.rootpath) / f"build/cluster{f'-{NODES}' if NODES > 1 else ''}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
