"""A checkpoint that is not what was quantized is refused, with the tensor's or file's name."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.schemas import VERIFICATION
from ptqflow.artifacts.tables import read_table
from ptqflow.checkpoints import registry
from ptqflow.checkpoints.verification import findings
from ptqflow.errors import ArtifactError
from ptqflow.modeling.qparams import QParams
from ptqflow.modeling.weights import Weights
from ptqflow.presets import resolve
from ptqflow.reporting import verification
from ptqflow.reporting.render import markdown
from ptqflow.reporting.variants import Variant
from safetensors.torch import load_file, save_file
from tiny_models import collect, export, quantize, stage, tiny_model

RECIPE = resolve(
    {"preset": "awq-w4a16", "scheme": {"weights": {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 32}}}
)
FORM = "compressed-tensors"
FLATQUANT = {"name": "flatquant", "sites": ["qkv", "gate_up"], "epochs": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A sharded model, its qparams, its fake checkpoint and its compressed-tensors one."""
    work = tmp_path_factory.mktemp("verification")
    model = tiny_model(work / "model", dtype=torch.bfloat16, shards=True)
    qparams = quantize(model, collect(model, work), RECIPE, work / "quantized")
    return model, qparams, export(model, qparams, RECIPE, work / "fake"), export(model, qparams, RECIPE, work / "real", FORM)


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made[3], tmp_path / "copy")
    return tmp_path / "copy"


def complaints(made, folder, form=FORM, recipe=RECIPE):
    model, qparams, fake, _ = made
    config = json.loads((model / "config.json").read_text())
    layout = registry.layout(form)(Weights(model), QParams(qparams), recipe, config)
    return [f"{f.check} {f.subject}: {f.mismatch}" for f in findings(layout, folder, Weights(fake)) if f.mismatch]


def shard_of(folder, name):
    return folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]


def change(folder, name, edit):
    """Replace a tensor in its shard."""
    path = shard_of(folder, name)
    tensors = load_file(path)
    tensors[name] = edit(tensors[name]).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def verify(made, folder, output, form=FORM, **more):
    model, qparams, fake, _ = made
    options = ["--model", model / "manifest.json", "--qparams", *qparams, "--fake", fake / "manifest.json"]
    options += ["--tokens", model.parent / "tokens.parquet", "--checkpoint", folder / "manifest.json", "--output", output]
    return stage("verify", {"recipe": RECIPE.dump(), "form": form} | more, *options)


SCALE, ZERO = "model.layers.1.mlp.up_proj.weight_scale", "model.layers.1.mlp.up_proj.weight_zero_point"
PACKED, NORM = "model.layers.0.self_attn.q_proj.weight_packed", "model.norm.weight"


def test_an_exported_checkpoint_has_no_complaints(made):
    assert complaints(made, made[3]) == []


@pytest.mark.parametrize(
    ("form", "recipe"),
    [
        ("autoawq", RECIPE),
        ("gptq", RECIPE),
        ("compressed-tensors", resolve({"preset": "rtn-w8a8-static-ascend"})),
        ("modelslim", resolve({"preset": "rtn-w8a8-static-ascend"})),
        ("modelslim", resolve({"preset": "rtn-w4a4-ascend"})),
        ("modelslim", resolve({"preset": "flatquant-w4a4-ascend", "transform": FLATQUANT})),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_form_is_verified_by_its_own_reader(form, recipe, made, tmp_path):
    model = made[0]
    qparams = quantize(model, model.parent / "calibration-1/manifest.json", recipe, tmp_path)
    fake, folder = (export(model, qparams, recipe, tmp_path / name, name) for name in ("fake", form))
    found = (model, qparams, fake, folder)
    assert complaints(found, folder, form, recipe) == []
    stem = registry.layout(form).stem
    (shard, *_) = sorted(folder.glob(f"{stem}*.safetensors"))
    tensors = load_file(shard)
    name = next(name for name in sorted(tensors) if "scale" in name)
    tensors[name] = tensors[name] * 2
    save_file(tensors, shard, metadata={"format": "pt"})
    (mismatch,) = complaints(found, folder, form, recipe)
    assert mismatch.startswith(f"tensors {name}: ")


@pytest.mark.parametrize("engine", [None, "transformers"])
def test_stage_writes_a_row_per_check(made, tmp_path, engine):
    more = {"engine": engine} if engine else {}
    assert verify(made, made[3], tmp_path / "v.parquet", **more) == 0
    rows = read_table(tmp_path / "v.parquet", VERIFICATION).to_pylist()
    linears = [r for r in rows if r["check"] == "integers"]
    assert len(linears) == 3 * 7
    assert max(r["value"] for r in rows if r["check"] == "scale") == 0  # bfloat16 holds them
    logits = [r for r in rows if r["check"].endswith("logprob_difference")]
    assert [r["status"] for r in logits] == (["passed", "passed"] if engine else ["skipped"])
    if engine:
        assert 0 <= logits[0]["value"] < 1e-3  # weights only: the same matrices


def test_what_rounding_to_the_models_dtype_costs_is_no_fault(tmp_path):
    """Symmetric weights are multiplied as they are on the grid; the fake form has them in bfloat16, and here logits are large."""
    model = tiny_model(tmp_path / "model", dtype=torch.bfloat16)
    tensors = load_file(model / "model.safetensors")
    tensors[NORM] *= 8
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    Manifest.of_folder(model, [path.name for path in model.iterdir() if path.name != "manifest.json"], {}).write(model)
    recipe = resolve({"preset": "rtn-w8a16-ascend"})
    qparams = quantize(model, collect(model, tmp_path), recipe, tmp_path / "q")
    fake, real = (export(model, qparams, recipe, tmp_path / form, form) for form in ("fake", FORM))
    more = {"recipe": recipe.dump(), "engine": "transformers"}
    assert verify((model, qparams, fake, real), real, tmp_path / "v.parquet", **more) == 0
    rows = {row["check"]: row["value"] for row in read_table(tmp_path / "v.parquet", VERIFICATION).to_pylist()}
    assert rows["mean_logprob_difference"] > 0.1


def test_a_checkpoint_of_a_rotated_model_is_a_share_of_the_model_that_was_rotated(tmp_path):
    """Not of the rotated one, whose head was tied and is a matrix of its own."""
    model, turned = tiny_model(tmp_path / "model"), tmp_path / "rotated"
    recipe = resolve({"preset": "rtn-w8a16-ascend", "rotation": {"name": "hadamard"}})
    options = ("--model", model / "manifest.json", "--output", turned / "manifest.json")
    assert stage("rotate", {"rotation": {"name": "hadamard"}}, *options) == 0
    qparams = quantize(turned, collect(turned, tmp_path), recipe, tmp_path / "q")
    fake = export(turned, qparams, recipe, tmp_path / "fake")
    assert verify((turned, qparams, fake, fake), fake, tmp_path / "v.parquet", "fake", recipe=recipe.dump()) == 0
    rows = {row["check"]: row["value"] for row in read_table(tmp_path / "v.parquet", VERIFICATION).to_pylist()}
    assert rows["baseline_bytes"] == (model / "model.safetensors").stat().st_size < rows["bytes"]


def test_the_table_says_what_was_found(made, tmp_path):
    assert verify(made, made[3], tmp_path / "v.parquet") == 0
    variant = Variant(platform="cpu", model="tiny", recipe="awq-w4", form=FORM)
    (row,) = verification.build([(variant, read_table(tmp_path / "v.parquet", VERIFICATION))])
    stored = sum(path.stat().st_size for path in made[3].glob("*.safetensors"))
    assert (row["linears"], row["bytes"], row["logprob_difference"]) == (3 * 7, stored, None)
    assert row["baseline_share"] == stored / sum(path.stat().st_size for path in made[0].glob("*.safetensors"))
    assert "make check-engines" in row["note"]
    text = markdown([verification.printed([row])])
    assert "awq-w4" in text
    assert row["note"] in text


def test_the_fake_form_is_verified_too(made, tmp_path):
    assert verify(made, made[2], tmp_path / "v.parquet", "fake", engine="transformers") == 0
    checks = pq.read_table(tmp_path / "v.parquet")["check"].to_pylist()
    assert "tensors" in checks
    assert "integers" not in checks


def test_a_damaged_checkpoint_fails_the_stage_by_name(made, copy, tmp_path, capsys):
    change(copy, SCALE, lambda t: t * 2)
    names = Manifest.read(copy / "manifest.json")
    Manifest.of_folder(copy, names.files, names.origin).write(copy)  # the manifest itself is no longer the witness
    assert verify(made, copy, tmp_path / "v.parquet") == 2
    assert SCALE in capsys.readouterr().err
    assert not (tmp_path / "v.parquet").exists()


def test_a_file_that_changed_since_export_is_refused(made, copy, tmp_path, capsys):
    shard = shard_of(copy, SCALE)
    shard.write_bytes(shard.read_bytes()[:-1])
    assert verify(made, copy, tmp_path / "v.parquet") == 2
    assert shard.name in capsys.readouterr().err


def test_another_recipes_checkpoint_is_refused(made, copy, tmp_path, capsys):
    manifest = Manifest.read(copy / "manifest.json")
    manifest.origin["inputs"]["qparams"] = ["0" * 64]
    manifest.write(copy)
    assert verify(made, copy, tmp_path / "v.parquet") == 2
    assert "other qparams" in capsys.readouterr().err


def test_a_truncated_shard_is_named(made, copy):
    shard = shard_of(copy, SCALE)
    shard.write_bytes(shard.read_bytes()[:-100])
    (mismatch,) = complaints(made, copy)
    assert shard.name in mismatch


def test_swapped_scales_are_named(made, copy):
    other = SCALE.replace("up_proj", "gate_proj")
    a, b = (load_file(shard_of(copy, name))[name] for name in (SCALE, other))
    change(copy, SCALE, lambda _: b)
    change(copy, other, lambda _: a)
    found = complaints(made, copy)
    assert len(found) == 2
    assert all(any(name in line for line in found) for name in (SCALE, other))


@pytest.mark.parametrize(
    ("name", "edit", "says"),
    [
        (SCALE, lambda t: t.float(), "dtype"),
        (PACKED, lambda t: t.T, "shape"),
        (NORM, lambda t: t.float(), "dtype"),
        (SCALE, lambda t: -t, "values"),
        (SCALE, lambda t: t * float("nan"), "not finite"),
    ],
)
def test_a_malformed_tensor_is_named(made, copy, name, edit, says):
    change(copy, name, edit)
    assert any(line.startswith(f"tensors {name}: ") and says in line for line in complaints(made, copy))


def test_a_missing_index_entry_is_named(made, copy):
    path = copy / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"][SCALE]
    path.write_text(json.dumps(index))
    assert complaints(made, copy) == [f"index {SCALE}: listed in None, found in {shard_of(made[3], SCALE).name}"]


def test_a_config_that_says_something_else_is_named(made, copy):
    path = copy / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"] = 64
    path.write_text(json.dumps(config))
    assert complaints(made, copy) == ["documents config.json: does not say what this recipe and form need"]
    path.unlink()
    assert any(line.startswith("documents config.json: not readable") for line in complaints(made, copy))


def test_a_wrong_total_size_and_a_missing_index_are_found(made, copy):
    path = copy / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["metadata"]["total_size"] += 1
    path.write_text(json.dumps(index))
    assert any("total_size" in line for line in complaints(made, copy))
    path.unlink()
    assert any("several weight files" in line for line in complaints(made, copy))


def test_renamed_stale_and_foreign_tensors_are_named(made, copy):
    shard = shard_of(copy, ZERO)
    tensors = load_file(shard)
    tensors[ZERO.replace("zero_point", "zeros")] = tensors.pop(ZERO)
    save_file(tensors, shard, metadata={"format": "pt"})
    found = complaints(made, copy)
    assert f"names {ZERO}: missing" in found
    assert any(line.startswith("names") and "weight_zeros" in line and "renamed" in line for line in found)
    (copy / "pytorch_model.bin").write_bytes(b"old")
    assert any("pytorch_model.bin" in line for line in complaints(made, copy))


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_in_any_tensor_is_found(made, data):
    """Files are damaged in place and repaired: copying for each example would take the time."""
    folder = made[3]
    names = sorted(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"])
    name = data.draw(st.sampled_from(names))
    path = shard_of(folder, name)
    before = path.read_bytes()
    header = int.from_bytes(before[:8], "little")
    begin, end = json.loads(before[8 : 8 + header])[name]["data_offsets"]
    bit = data.draw(st.integers(0, 8 * (end - begin) - 1))
    damaged = bytearray(before)
    damaged[8 + header + begin + bit // 8] ^= 1 << bit % 8
    try:
        path.write_bytes(damaged)
        assert any(name in line for line in complaints(made, folder))
    finally:
        path.write_bytes(before)


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_in_qparams_is_noticed_or_changes_no_tensor(made, data):
    path = made[1][0]
    before = path.read_bytes()
    whole = {name: tensor.clone() for name, tensor in QParams([path]).items()}
    header = 8 + int.from_bytes(before[:8], "little")
    begin, end = data.draw(st.sampled_from([(0, header), (header, len(before))]))
    place = data.draw(st.integers(8 * begin, 8 * end - 1))
    damaged = bytearray(before)
    damaged[place // 8] ^= 1 << place % 8
    try:
        path.write_bytes(damaged)
        found = dict(QParams([path]))
        assert found.keys() == whole.keys()
        assert all(torch.equal(tensor, whole[name]) for name, tensor in found.items())
    except ArtifactError as error:
        assert str(path) in str(error)  # noqa: PT017
    finally:
        path.write_bytes(before)
