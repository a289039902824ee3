"""A file says what it was made from, and every reader compares that with what it was given: nothing of another model, calibration
or recipe is taken because it lies in the right place.
"""

import json
import re
import shutil

import pytest
import torch
from ptqflow.artifacts import schemas
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.provenance import differences
from ptqflow.artifacts.tables import read_metadata, read_table, write_table
from ptqflow.checkpoints import registry
from ptqflow.checkpoints.distance import BEYOND, distance
from ptqflow.errors import ArtifactError
from ptqflow.modeling.qparams import QParams, write_qparams
from ptqflow.modeling.weights import Weights
from ptqflow.presets import resolve
from ptqflow.reporting import verification
from ptqflow.reporting.variants import Variant
from safetensors.torch import load_file, save_file
from tiny_models import calibration_tokens, collect, export, quantize, stage, tiny_model

SMALL = {"strategy": "group", "group_size": 32}
RTN = resolve({"preset": "rtn-w4a16", "scheme": {"weights": SMALL}})
SMOOTH = resolve({"preset": "smoothquant-w8a8"})  # reads statistics in every chunk


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and another that differs in one tensor, calibrated, quantized in two chunks and exported."""
    work = tmp_path_factory.mktemp("made-from")
    model = tiny_model(work / "model", layers=2)
    shutil.copytree(model, work / "other")
    change(work / "other", lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"].mul_(1.5))
    calibration = collect(model, work, chunks=2)
    return work, model, work / "other", calibration, quantize(model, calibration, SMOOTH, work / "smooth", chunks=2)


def change(folder, edit):
    """Edit a model's tensors in place and write its manifest again."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    files = [path.name for path in folder.iterdir() if path.name != "manifest.json"]
    Manifest.of_folder(folder, files, {}).write(folder)


def quantize_chunk(model, calibration, recipe, chunk, folder):
    settings = {"recipe": recipe.dump(), "chunk": chunk, "layers": [chunk, chunk + 1]}
    options = ("--model", model / "manifest.json", "--calibration", calibration)
    outputs = ("--qparams", folder / "qparams.safetensors", "--diagnostics", folder / "diagnostics.parquet")
    return stage("quantize", settings, *options, *outputs)


@pytest.mark.parametrize(
    ("recorded", "asked", "found"),
    [
        ({"tokens": "a"}, {"tokens": "a"}, []),
        ({"tokens": "a"}, {"tokens": "b"}, ["tokens"]),
        ({}, {"tokens": "b"}, ["tokens"]),
        ({"tokens": "a"}, {}, []),
        ({"model": {"w": 1}}, {"model": {"w": 1, "card": 2}}, []),
        ({"model": {"w": 1, "config": 3}}, {"model": {"w": 1, "config": 2}}, ["model (config)"]),
        ({"model": {"gone": 1}}, {"model": {"w": 1}}, ["model (gone)"]),
        ({"model": {}}, {"model": {"w": 1}}, ["model"]),
        ({"model": None}, {"model": {"w": 1}}, ["model"]),
    ],
)
def test_a_record_that_lacks_or_contradicts_what_is_asked_is_named(recorded, asked, found):
    assert list(differences(recorded, asked)) == found


def test_states_of_another_model_are_refused(made, tmp_path, capsys):
    _, _, other, calibration, _ = made
    for chunk in (0, 1):  # chunk 0 holds no changed weight, but its states and statistics are of another model all the same
        assert quantize_chunk(other, calibration, SMOOTH, chunk, tmp_path) == 2
        assert "another model (model.safetensors)" in capsys.readouterr().err


def test_a_replaced_card_of_the_model_refuses_nothing(made, tmp_path):
    _, model, _, calibration, _ = made
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m/README.md").write_text("a card")
    change(tmp_path / "m", lambda tensors: None)
    assert quantize_chunk(tmp_path / "m", calibration, RTN, 0, tmp_path) == 0


def test_chunks_of_several_calibrations_are_refused(made, tmp_path, capsys):
    _, model, _, _, qparams = made
    tokens = calibration_tokens(tmp_path / "tokens.parquet", seed=1)
    options = ("--model", model / "manifest.json", "--tokens", tokens, "--output", tmp_path / "c/manifest.json")
    assert stage("collect", {"chunks": 2}, *options) == 0
    assert quantize_chunk(model, tmp_path / "c/manifest.json", SMOOTH, 1, tmp_path) == 0
    for mixed in ([qparams[0], tmp_path / "qparams.safetensors"], [tmp_path / "qparams.safetensors", qparams[0]]):
        options = ("--model", model / "manifest.json", "--qparams", *mixed, "--output", tmp_path / "fake/manifest.json")
        assert stage("export", {"recipe": SMOOTH.dump(), "form": "fake"}, *options) == 2
        error = capsys.readouterr().err
        assert "another tokens" in error
        assert str(mixed[1]) in error


def test_chunks_of_statistics_of_two_collections_are_refused(made, tmp_path, capsys):
    """The tokens are the same, the statistics are not (another device, another version of the code)."""
    _, model, _, calibration, qparams = made
    shutil.copytree(calibration.parent, tmp_path / "c")

    path = tmp_path / "c/statistics.parquet"
    table = read_table(path, schemas.STATISTICS)
    write_table(path, table, schemas.STATISTICS, read_metadata(path) | {"device": "another"})
    manifest = Manifest.read(tmp_path / "c/manifest.json")
    Manifest.of_folder(tmp_path / "c", manifest.files, manifest.origin).write(tmp_path / "c")
    assert quantize_chunk(model, tmp_path / "c/manifest.json", SMOOTH, 1, tmp_path) == 0
    options = ("--qparams", qparams[0], tmp_path / "qparams.safetensors", "--output", tmp_path / "fake/manifest.json")
    assert stage("export", {"recipe": SMOOTH.dump(), "form": "fake"}, "--model", model / "manifest.json", *options) == 2
    assert "another statistics" in capsys.readouterr().err


def verify(model, qparams, fake, checkpoint, tokens, output, form="compressed-tensors"):
    options = ("--model", model / "manifest.json", "--qparams", *qparams, "--fake", fake / "manifest.json")
    options += ("--checkpoint", checkpoint / "manifest.json", "--tokens", tokens, "--output", output)
    return stage("verify", {"recipe": RTN.dump(), "form": form}, *options)


def test_verification_refuses_whatever_is_not_of_this_model_and_recipe(made, tmp_path, capsys):
    work, model, other, calibration, _ = made
    qparams = quantize(model, calibration, RTN, tmp_path / "q", chunks=2)
    fake, real = export(model, qparams, RTN, tmp_path / "fake"), export(model, qparams, RTN, tmp_path / "r", "compressed-tensors")
    tokens, output = work / "tokens.parquet", tmp_path / "v.parquet"
    assert verify(model, qparams, fake, real, tokens, output) == 0
    again = collect(other, tmp_path, chunks=2)
    strange = quantize(other, again, RTN, tmp_path / "q2", chunks=2)
    strange_fake = export(other, strange, RTN, tmp_path / "fake2")
    elsewhere = calibration_tokens(tmp_path / "elsewhere.parquet", seed=5)
    for arguments, says in [
        ((other, qparams, fake, real, tokens), "another model"),
        ((model, strange, fake, real, tokens), "another model"),
        ((model, qparams, strange_fake, real, tokens), "another model"),
        ((model, qparams, real, real, tokens), "holds form compressed-tensors, not fake"),
        ((model, qparams, fake, fake, tokens), "holds form fake, not compressed-tensors"),
        ((model, qparams, fake, real, elsewhere), "calibrated on"),
    ]:
        capsys.readouterr()
        assert verify(*arguments, output) == 2, says
        assert says in capsys.readouterr().err


# ---- qparams: header and data


def rewritten(path, edit):
    """The bytes of a safetensors file with its header, as data, edited."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def retyped(header, name):
    same_size = {"F32": "I32", "I8": "U8", "U8": "I8", "F64": "I64", "BF16": "F16", "F16": "BF16"}
    header[name]["dtype"] = same_size[header[name]["dtype"]]


def reshaped(header, name):
    header[name]["shape"] = [*header[name]["shape"][::-1], 1]


def exchanged(header, name):
    others = (n for n in header if n not in (name, "__metadata__") and not n.endswith("zero_point"))
    twin = next(n for n in others if _size(header[n]) == _size(header[name]))
    header[name], header[twin] = header[twin], header[name]


def _size(entry):
    return entry["dtype"], entry["shape"]


@pytest.mark.parametrize("edit", [retyped, reshaped, exchanged])
def test_dtype_shape_and_name_of_every_tensor_are_in_its_checksum(made, tmp_path, edit):
    path = made[4][0]
    names = list(QParams([path]))
    assert len(names) > 20
    for name in names:
        try:
            content = rewritten(path, lambda header, name=name: edit(header, name))
        except StopIteration:  # no twin to exchange it with, whose bytes differ
            continue
        (tmp_path / "q.safetensors").write_bytes(content)
        with pytest.raises(ArtifactError, match=re.escape(name)):
            QParams([tmp_path / "q.safetensors"])[name]


# ---- distance from the float weights

DOWN_8 = {
    "scheme": {"weights": {"num_bits": 3, **SMALL}},
    "overrides": [{"linears": ["down_proj"], "weights": {"num_bits": 8, "strategy": "channel"}}],
}
RECIPES = {
    "rtn-w8": resolve({"preset": "rtn-w8a8"}),
    "rtn-w4": RTN,
    "rtn-w2": resolve({"scheme": {"weights": {"num_bits": 2, "symmetric": True, **SMALL}}}),
    "awq-w3": resolve({"preset": "awq-w3a16", "scheme": {"weights": SMALL}}),
    "smoothquant": SMOOTH,
    "gptq-w4": resolve({"preset": "gptq-w4a16", "scheme": {"weights": SMALL}}),
    "gptq-w2": resolve({"preset": "gptq-w4a16", "scheme": {"weights": {"num_bits": 2, **SMALL}}}),
    "gptaq-w8": resolve({"preset": "gptaq-w4a16", "scheme": {"weights": {"num_bits": 8, **SMALL}}}),
    "gptaq-w3-down-8": resolve({"preset": "gptaq-w4a16", "rounding": {"ridge": 0.001}, **DOWN_8}),
    "search-w8": resolve({"preset": "rtn-w8a8", "clip": {"name": "search"}}),
    "hessian-w8": resolve({"preset": "rtn-w8a8", "clip": {"name": "hessian"}}),
    "mse-w8": resolve({"preset": "rtn-w8a8", "clip": {"name": "mse", "norm": 0.5}}),
    "gptq-tensor": resolve({"scheme": {"weights": {"num_bits": 4, "strategy": "tensor"}}, "rounding": {"name": "gptq"}}),
    "flatquant": resolve({"preset": "flatquant-w4a4kv4", "transform": {"name": "flatquant", "epochs": 1}}),
}


def distances(model, recipe, qparams, edit=lambda weight: weight):
    """Distance and limit of every linear, of the weight that the fake form holds after `edit`."""
    source, config = Weights(model), json.loads((model / "config.json").read_text())
    layout = registry.layout("fake")(source, QParams(qparams), recipe, config)
    found = {
        prefix: distance(
            source[f"{prefix}.weight"],
            linear,
            recipe,
            layout.qparams,
            edit(layout.grid_weight(linear).dequantized()),
            layout.architecture,
        )
        for prefix, linear in layout.linears.items()
    }
    return {prefix: entry for prefix, entry in found.items() if entry is not None}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("tokens", [4, 288])
def test_what_a_method_makes_is_as_near_as_its_bits_allow(made, tmp_path, name, tokens):
    """Also where the calibration has far fewer tokens than channels, so that GPTQ may move along what it does not see."""
    _, model, _, calibration, _ = made
    if tokens != 288:
        few = calibration_tokens(tmp_path / "few.parquet", sequences=2, length=2)
        options = ("--model", model / "manifest.json", "--tokens", few, "--output", tmp_path / "c/manifest.json")
        assert stage("collect", {"chunks": 2}, *options) == 0
        calibration = tmp_path / "c/manifest.json"
    recipe = RECIPES[name]
    found = distances(model, recipe, quantize(model, calibration, recipe, tmp_path, chunks=2))
    assert len(found) == (2 * 5 if name == "flatquant" else 2 * 7)
    margin = 1 if recipe.rounding.asymmetric else 0.8  # a correction is known, not allowed for
    assert {prefix: entry for prefix, entry in found.items() if not 0 < entry.value <= margin * entry.limit} == {}
    assert max(entry.beyond for entry in found.values()) <= 0.8 * BEYOND


EDITS = [
    lambda w: w * 2,
    lambda w: -w,
    lambda w: w.roll(1, 0),
    lambda w: w.roll(1, 1),
    lambda w: w + w.abs().max(),
    torch.zeros_like,
]


@pytest.mark.parametrize("name", ["rtn-w8", "rtn-w4", "smoothquant", "gptq-w4", "gptaq-w8", "search-w8", "hessian-w8"])
def test_a_weight_of_another_scale_sign_place_or_origin_is_too_far(made, tmp_path, name):
    _, model, _, calibration, _ = made
    qparams = quantize(model, calibration, RECIPES[name], tmp_path, chunks=2)
    for number, edit in enumerate(EDITS):
        found = distances(model, RECIPES[name], qparams, edit).values()
        assert all(entry.value > entry.limit or entry.beyond > BEYOND for entry in found), number


def test_columns_that_no_input_excites_are_noted_and_not_missed(made, tmp_path, capsys):
    """GPTQ makes them 0, as published: in a weight of many bits more than rounding. Other columns that became 0 are a fault."""
    model = made[1]
    shutil.copytree(model, tmp_path / "dead")
    change(tmp_path / "dead", lambda tensors: tensors["model.layers.0.input_layernorm.weight"][10:15].zero_())
    recipe = resolve({"preset": "gptq-w4a16", "scheme": {"weights": {"num_bits": 8, **SMALL}}})
    qparams = quantize(tmp_path / "dead", collect(tmp_path / "dead", tmp_path), recipe, tmp_path / "q")
    said = "5 of 128 input channels are 0 on all calibration tokens: their weights were made 0"
    assert f"quantize: warning: 3 of 16 linears and blocks: {said}" in capsys.readouterr().err
    fake = export(tmp_path / "dead", qparams, recipe, tmp_path / "fake")
    assert f"A warning, in 3 places: {said}." in (fake / "README.md").read_text()
    options = ("--model", tmp_path / "dead/manifest.json", "--qparams", *qparams, "--fake", fake / "manifest.json")
    options += ("--checkpoint", fake / "manifest.json", "--tokens", tmp_path / "tokens.parquet")
    options += ("--output", tmp_path / "v.parquet")
    assert stage("verify", {"recipe": recipe.dump(), "form": "fake"}, *options) == 0

    def fewer_columns(weight):
        return weight.index_fill(1, torch.arange(40, 48), 0)

    for edit in (*EDITS, fewer_columns):
        found = distances(tmp_path / "dead", recipe, qparams, edit).values()
        assert all(entry.value > entry.limit or entry.beyond > BEYOND for entry in found)


def test_gptq_may_use_the_whole_grid_of_groups_of_zeros_and_of_tiny_weights(made, tmp_path):
    """Their steps have a floor, so that the grid is wider than the range, and what other columns lost is put there."""
    model = made[1]
    shutil.copytree(model, tmp_path / "pruned")

    def prune(tensors):
        tensors["model.layers.0.self_attn.o_proj.weight"][:, :32].zero_()  # a head
        tensors["model.layers.0.mlp.up_proj.weight"][::2].mul_(1e-4)

    change(tmp_path / "pruned", prune)
    calibration = collect(tmp_path / "pruned", tmp_path)
    for bits in (4, 8):
        recipe = resolve({"preset": "gptq-w4a16", "scheme": {"weights": {"num_bits": bits, **SMALL}}})
        qparams = quantize(tmp_path / "pruned", calibration, recipe, tmp_path / "q")
        assert max(entry.beyond for entry in distances(tmp_path / "pruned", recipe, qparams).values()) <= 0.8 * BEYOND
        for edit in EDITS:
            found = distances(tmp_path / "pruned", recipe, qparams, edit).values()
            assert all(entry.value > entry.limit or entry.beyond > BEYOND for entry in found)


def test_verification_refuses_sound_files_that_hold_wrong_weights(made, tmp_path, capsys):
    """Integers and scales whose every checksum is right, and which a fault of the code made of other weights."""
    work, model, _, calibration, _ = made
    qparams = quantize(model, calibration, RTN, tmp_path / "q", chunks=2)

    found, origin = dict(QParams(qparams[:1])), next(iter(QParams(qparams[:1]).metadata.values()))
    name = "model.layers.0.mlp.down_proj.scale"
    with write_qparams(qparams[0], {key: value for key, value in origin.items() if key != "crc32"}) as take:
        take(found | {name: found[name] * 2})
    fake, real = export(model, qparams, RTN, tmp_path / "fake"), export(model, qparams, RTN, tmp_path / "r", "compressed-tensors")
    for form, folder in (("compressed-tensors", real), ("fake", fake)):
        assert verify(model, qparams, fake, folder, work / "tokens.parquet", tmp_path / "v.parquet", form) == 2
        error = capsys.readouterr().err
        assert "model.layers.0.mlp.down_proj" in error
        assert "distance" in error


# ---- what was done instead of the recipe


def test_a_fallback_is_said_in_log_card_and_table(made, tmp_path, monkeypatch, capsys):
    """Not only in a column of the diagnostics: whoever deploys the checkpoint reads its card."""
    work, model, _, calibration, _ = made
    recipe = resolve({"preset": "gptq-w4a16", "scheme": {"weights": SMALL}})
    whole = export(model, quantize(model, calibration, recipe, tmp_path / "whole", 2), recipe, tmp_path / "fake-whole")
    assert "recipe says" not in capsys.readouterr().err + (whole / "README.md").read_text()
    monkeypatch.setattr("ptqflow.methods.roundings.gptq.damped_cholesky", lambda *_: None)
    qparams = quantize(model, calibration, recipe, tmp_path / "q", 2)
    assert "7 of 8 linears and blocks not as the recipe says: rtn: the Hessian could not" in capsys.readouterr().err
    fake = export(model, qparams, recipe, tmp_path / "fake")
    assert "in 14 places: rtn: the Hessian could not be factored" in (fake / "README.md").read_text()
    options = ("--model", model / "manifest.json", "--qparams", *qparams, "--fake", fake / "manifest.json")
    options += ("--checkpoint", fake / "manifest.json", "--tokens", work / "tokens.parquet", "--output", tmp_path / "v.parquet")
    assert stage("verify", {"recipe": recipe.dump(), "form": "fake"}, *options) == 0
    variant = Variant(platform="cpu", model="m", recipe="second-order", form="fake")
    rows = verification.build([(variant, read_table(tmp_path / "v.parquet", schemas.VERIFICATION))])
    assert "second-order fake: " in verification.printed(rows).notes[-1]
    assert "14 linears or blocks are not as the recipe says: rtn: the Hessian" in verification.printed(rows).notes[-1]
