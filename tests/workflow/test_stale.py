"""What another platform left is shown only while it is what the study asks for: an edit leaves its rows out, with the reason."""

import copy
import shutil

import pytest
from checkout import REPOSITORY
from ptqflow import paths
from ptqflow.artifacts.hashing import sha256
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.models import of_part, source_files
from ptqflow.artifacts.schemas import LATENCY, SAMPLES
from ptqflow.artifacts.tables import write_rows
from ptqflow.checked import load
from ptqflow.stale import _whole
from ptqflow.table_jobs import TableJobs

DEMO, TASK = REPOSITORY / "resources/demo-model", "resources/tasks/facts"
STUDY = {
    "models": {"demo": {"source": {"path": "resources/demo-model"}}},
    "calibrations": {
        "traces": {"source": {"path": "resources/calibration/traces.jsonl"}, "format": "chat", "sequence_length": 64}
    },
    "calibration": "traces",
    "recipes": {"rtn": {"preset": "rtn-w4a16"}},
    "tasks": {"facts": {"benchmark": "choices", "source": {"path": TASK}, "limit": 8}},
    "suites": {"s": {"tasks": ["facts"]}},
    "latency": {"quick": {"batch_sizes": [1], "prompt_tokens": [16], "new_tokens": 2}},
}


@pytest.fixture
def left(tmp_path, monkeypatch):
    """A folder with the resources, and the results of this study on another platform."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resources").symlink_to(REPOSITORY / "resources")
    study = load(copy.deepcopy(STUDY))
    model = Manifest.of_folder(DEMO, of_part(source_files(DEMO), "models"), {"source": {"path": "demo-model"}})
    (tmp_path / "results/models/demo").mkdir(parents=True)
    model.write(tmp_path / "results/models/demo")
    calibration, task = study.calibrations["traces"], study.tasks["facts"]
    origin = {
        "settings": {"recipe": study.recipes["rtn"].dump(), "form": "fake"},
        "inputs": {"model": {name: entry.sha256 for name, entry in model.files.items()}},
        "calibration_set": {
            "settings": calibration.model_dump(mode="json"),
            "data": {"resources/calibration/traces.jsonl": sha256("resources/calibration/traces.jsonl")},
        },
    }
    folder = tmp_path / "results/gpu/checkpoints/demo/rtn/fake"
    folder.mkdir(parents=True)
    Manifest(files={}, origin=origin).write(folder)
    checkpoint = {"checkpoint": sha256(folder / "manifest.json")}
    settings = {"benchmark": "choices", "source": task.source.model_dump(mode="json"), "engine": "transformers", "seed": 0}
    settings |= {"task": "facts", "protocol": _whole(task.PROTOCOL, task.definition.defaults, task.asks), "batch_size": 1}
    scored = {
        "settings": {"version": task.definition.version, "metric": _whole(task.METRIC, task.definition.defaults, task.metric)},
        "generated": {"settings": settings, "inputs": checkpoint | {f"{TASK}/test.jsonl": sha256(f"{TASK}/test.jsonl")}},
    }
    write_rows(paths.scores("gpu", "demo", "rtn.fake", "transformers", "facts", 0), SAMPLES, [], scored)
    timed = {"settings": study.latency["quick"].asked("demo"), "inputs": checkpoint}
    write_rows(paths.latency("gpu", "demo", "rtn.fake", "transformers", "quick"), LATENCY, [], timed)
    return tmp_path


def shown(change):
    """The other platform's scores and timings that the tables read, and what is said of the others."""
    config = copy.deepcopy(STUDY)
    change(config)
    jobs = TableJobs(load(config))
    read = [kind for kind in ("scores", "latency") if f"results/gpu/{kind}/demo/rtn.fake" in jobs.aggregate_files()]
    return read, " ".join(jobs.left_out())


def test_what_is_still_asked_for_is_shown(left):
    assert shown(lambda c: None) == (["scores", "latency"], "")
    assert shown(lambda c: c["suites"]["s"].update(batch_size=7))[0] == ["scores", "latency"]  # how many at once is no question


@pytest.mark.parametrize(
    ("change", "read", "reason"),
    [
        (lambda c: c["recipes"]["rtn"].update(preset="rtn-w3a16"), [], "made by another recipe"),
        (lambda c: c["calibrations"]["traces"].update(seed=3), [], "calibrated otherwise"),
        (
            lambda c: c["calibrations"]["traces"].update(source={"path": "resources/calibration/text.jsonl"}, format="plain"),
            [],
            "calibrated otherwise",
        ),
        (lambda c: c["tasks"]["facts"].update(limit=200), ["latency"], "another protocol"),
        (lambda c: c["tasks"]["facts"].update(normalization="characters"), ["latency"], "another metric"),
        (lambda c: c["latency"]["quick"].update(new_tokens=3), ["scores"], "measured otherwise"),
    ],
)
def test_what_is_asked_otherwise_is_left_out_with_the_reason(left, change, read, reason):
    found, said = shown(change)
    assert found == read
    assert reason in said


def test_a_model_is_the_same_whatever_its_card_says(left):
    edited = shutil.copytree(DEMO, left / "edited/demo-model")
    (edited / "README.md").write_text("another card")
    assert shown(lambda c: c["models"]["demo"]["source"].update(path=str(edited))) == (["scores", "latency"], "")


def test_another_model_under_the_same_name_and_edited_data_leave_rows_out(left):
    (left / "another").symlink_to(DEMO)
    other = left / "elsewhere"
    other.mkdir()
    for name in source_files(DEMO):
        shutil.copyfile(DEMO / name, other / name)
    assert shown(lambda c: c["models"]["demo"]["source"].update(path=str(other)))[0] == []
    manifest = left / "results/gpu/checkpoints/demo/rtn/fake/manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    found, said = shown(lambda c: None)
    assert found == []
    assert "made from another checkpoint" in said
    manifest.unlink()
    assert shown(lambda c: None)[0] == []
