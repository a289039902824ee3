import fcntl
import os
import shutil
from pathlib import Path

import pytest
from checkout import SMALL_STUDY, Checkout

try:
    import hypothesis
except ModuleNotFoundError:  # the environment of an engine, whose tests need none (`make check-engines`, `make check-triton`)
    pass
else:
    hypothesis.settings.register_profile("busy", deadline=None)  # a machine at other work takes longer for an example
    hypothesis.settings.load_profile("busy")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Benchmark data in hub layout: $PTQFLOW_DATA, or beside the repository. Tests skip without it."""
    root = Path(os.environ.get("PTQFLOW_DATA", Path(__file__).resolve().parents[2] / "shared/data/hf"))
    if not root.is_dir():
        pytest.skip(f"no benchmark data at {root}; set PTQFLOW_DATA")
    return root


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Checkout:
    """A small study, run to its end by the real Snakemake, once for all workers. Tests that change it work on a clone."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    place.mkdir(exist_ok=True)
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "done").exists():
            shutil.rmtree(place / "checkout", ignore_errors=True)
            Checkout.create(place / "checkout", SMALL_STUDY).run()
            (place / "done").touch()
    return Checkout(place / "checkout")


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder that the tests of a module share."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def model(work) -> Path:
    """A tiny random Qwen2."""
    from tiny_models import tiny_model

    return tiny_model(work / "model")


@pytest.fixture(scope="module")
def calibration(model, work) -> Path:
    """Its collected calibration, as one chunk."""
    from tiny_models import collect

    return collect(model, work)
