"""Tables show no file beside a checkpoint that it was not made from, and compare nothing that was asked differently."""

import json
import shutil

import pytest
from ptqflow.artifacts.manifests import FileEntry, Manifest
from ptqflow.artifacts.schemas import DIAGNOSTICS, LATENCY, SAMPLES
from ptqflow.artifacts.tables import read_metadata, read_table, write_table
from ptqflow.cli import main
from ptqflow.errors import ArtifactError
from ptqflow.reporting import origins
from ptqflow.reporting.variants import Variant
from synthetic_study import HARM, whole_study


@pytest.fixture
def study(tmp_path):
    return whole_study(tmp_path / "study")


def refused(study, tmp_path, capsys):
    """What `aggregate` says when it refuses; the tables are not written."""
    capsys.readouterr()
    assert main(study.arguments(tmp_path / "tables")) == 2
    assert not (tmp_path / "tables").exists()
    return capsys.readouterr().err


def file_of(study, kind, recipe, **who):
    """The path of the first file of a kind that speaks of `recipe`."""
    asked = {"recipe": recipe, "platform": "cpu", **who}
    listed = zip(study.settings[kind], study.paths[kind], strict=True)
    return next(path for entry, path in listed if asked.items() <= entry.items())


def rewrite(path, schema, edit):
    """Write a file again with `edit(metadata)` for its metadata."""
    metadata = read_metadata(path)
    edit(metadata)
    write_table(path, read_table(path, schema), schema, metadata)


def test_a_sound_study_is_taken(study, tmp_path):
    assert main(study.arguments(tmp_path / "tables")) == 0


@pytest.mark.parametrize("kind", ["scores", "latency", "diagnostics"])
@pytest.mark.parametrize("other", ["rtn-w3a16", "baseline", "gptq-w4a16"])
def test_a_file_of_another_recipe_is_refused_by_name(study, tmp_path, capsys, kind, other):
    if kind == "diagnostics" and other == "baseline":
        pytest.skip("nothing is quantized")
    target = file_of(study, kind, "rtn-w4a16")
    shutil.copy(file_of(study, kind, other), target)
    assert str(target) in refused(study, tmp_path, capsys)


def test_a_file_of_another_platforms_checkpoint_is_refused(tmp_path, capsys):
    study = whole_study(tmp_path / "study", platforms=("cpu", "gpu"))
    path = file_of(study, "checkpoints", "rtn-w4a16", platform="gpu")
    manifest = Manifest.read(path)
    manifest.origin["versions"] = {"torch": "another"}
    manifest.write(path.parent)
    text = refused(study, tmp_path, capsys)
    assert "another checkpoint" in text
    assert str(file_of(study, "scores", "rtn-w4a16", platform="gpu")) in text


def test_a_checkpoint_and_diagnostics_of_another_model_are_refused(study, tmp_path, capsys):
    path = file_of(study, "checkpoints", "rtn-w4a16")
    manifest = Manifest.read(path)
    whole = path.read_text()
    manifest.origin["inputs"]["model"] = {"model.safetensors": "9" * 64}
    manifest.write(path.parent)
    assert f"{path} was made from another model (model.safetensors)" in refused(study, tmp_path, capsys)
    path.write_text(whole)
    target = file_of(study, "diagnostics", "rtn-w4a16")
    for key, value in {"model": {"model.safetensors": "9" * 64}, "tokens": "9" * 64}.items():
        before = target.read_bytes()
        rewrite(target, DIAGNOSTICS, lambda metadata, key=key, value=value: metadata["inputs"].update({key: value}))
        text = refused(study, tmp_path, capsys)
        assert str(target) in text
        assert f"another {key}" in text
        target.write_bytes(before)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda m: m["generated"]["inputs"].update({"task/test.jsonl": "2" * 64}), "another data"),
        (lambda m: m["generated"]["settings"].update(protocol={"limit": 8}), "another protocol"),
        (lambda m: m.update(settings={"metric": {"scorer": "legacy"}}), "another scoring"),
        (lambda m: m["generated"]["settings"].update(seed=9), "seed 9"),
        (lambda m: m["generated"]["settings"].update(task="facts"), "holds task facts"),
    ],
)
def test_scores_that_were_asked_otherwise_are_refused_by_task_and_file(study, tmp_path, capsys, edit, says):
    """Answers edited between two evaluations made one model "100 points worse than itself"."""
    target = file_of(study, "scores", "gptq-w4a16", task="arithmetic")
    rewrite(target, SAMPLES, edit)
    text = refused(study, tmp_path, capsys)
    assert str(target) in text
    assert "arithmetic" in text
    assert says in text


def test_a_file_that_does_not_say_what_it_was_made_from_is_refused(study, tmp_path, capsys):
    target = file_of(study, "latency", "rtn-w4a16")
    rewrite(target, LATENCY, lambda metadata: metadata.clear())
    assert str(target) in refused(study, tmp_path, capsys)


def test_every_recipe_has_its_own_origin(study):
    assert len({json.dumps(read_metadata(file_of(study, "scores", r))) for r in HARM}) == len(HARM)


def test_a_rotated_recipe_is_of_the_model_that_was_rotated(tmp_path):
    """Its own inputs are the rotated model's files; what that was made from is compared with the float model."""
    entry = Variant(platform="cpu", model="m", recipe="r", form="fake")
    manifest = Manifest(files={"model.safetensors": FileEntry(bytes=1, sha256="float")}, origin={})
    checkpoints = {entry.baseline: (tmp_path, manifest)}
    made = {"inputs": {"model": {"model.safetensors": "rotated"}}}
    with pytest.raises(ArtifactError, match="another model"):
        origins.of_model(entry, tmp_path, made, checkpoints)
    origins.of_model(entry, tmp_path, made | {"rotated_from": {"model.safetensors": "float"}}, checkpoints)
    with pytest.raises(ArtifactError, match="another model"):
        origins.of_model(entry, tmp_path, made | {"rotated_from": {"model.safetensors": "other"}}, checkpoints)
