"""ModelSlim checkpoints: complete, exact, and refused where vllm-ascend could not serve them (`engines/ascend_proof.py`)."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from ptqflow.artifacts.activations import read_absmax
from ptqflow.artifacts.manifests import Manifest
from ptqflow.checkpoints import registry
from ptqflow.checkpoints.modelslim_layout import DESCRIPTION
from ptqflow.checkpoints.verification import findings
from ptqflow.errors import ArtifactError
from ptqflow.modeling.qparams import QParams
from ptqflow.modeling.weights import Weights
from ptqflow.presets import resolve
from safetensors.torch import load_file, save_file
from tiny_models import collect, export, quantize, tiny_model
from transformers import AutoModelForCausalLM

FLAT = {"name": "flatquant", "sites": ["qkv", "gate_up"], "epochs": 1}
FLOAT_LAYER = {"layers": [1], "linears": "all", "weights": None, "input_activations": None}
RECIPES = {
    "w8a16": resolve({"preset": "rtn-w8a16-ascend"}),
    "w8a8": resolve({"preset": "rtn-w8a8-ascend", "overrides": [FLOAT_LAYER]}),
    "w8a8-tensor": resolve({"preset": "rtn-w8a8-ascend", "scheme": {"weights": {"num_bits": 8, "strategy": "tensor"}}}),
    "w8a8-static": resolve({"preset": "smoothquant-w8a8-static-ascend"}),
    "w8a8-smooth": resolve({"preset": "smoothquant-w8a8-ascend"}),
    "w4a4": resolve({"preset": "rtn-w4a4-ascend"}),
    "w4a4-flat": resolve({"preset": "flatquant-w4a4-ascend", "transform": FLAT}),
}
READERS = {
    "input_layernorm": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("modelslim")


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def model(request, work):
    folder: Path = work / request.param
    return folder if folder.exists() else tiny_model(folder, request.param, torch.bfloat16, shards=True, layers=2)


@pytest.fixture(scope="module")
def quantized(model, work):
    """Recipe's name -> qparams, made once."""

    def of(name):
        folder: Path = work / f"{model.name}-{name}"
        found = folder / "chunk=0" / "qparams.safetensors"
        return [found] if found.exists() else quantize(model, collect(model, folder), RECIPES[name], folder)

    return of


@pytest.fixture(scope="module", params=RECIPES)
def exported(request, model, quantized, work):
    """(layout, fake layout, checkpoint's folder, fake checkpoint)"""
    name, paths = request.param, quantized(request.param)
    folders = {
        form: export(model, paths, RECIPES[name], work / f"{model.name}-{name}" / form, form) for form in ("modelslim", "fake")
    }
    layout, fake = (layout_of(model, name, QParams(paths), form) for form in folders)
    return layout, fake, folders["modelslim"], Weights(folders["fake"])


def layout_of(model, name, qparams, form="modelslim"):
    return registry.layout(form)(Weights(model), qparams, RECIPES[name], json.loads((model / "config.json").read_text()))


def test_checkpoint_and_description_hold_what_the_specification_says_and_nothing_else(exported):
    layout, _, folder, _ = exported
    spec, checkpoint = layout.spec(), Weights(folder, layout.stem)
    assert {name for file in folder.glob("*.safetensors") for name in [file.name.split("-")[0]]} == {"quant_model_weights"}
    assert checkpoint.file_of.keys() == spec.keys()
    assert all(expected.mismatch(checkpoint[key]) is None for key, expected in spec.items())
    description = json.loads((folder / DESCRIPTION).read_text())
    assert description.keys() - spec.keys() == {"model_quant_type", "version", "group_size"}
    assert spec.keys() <= description.keys()
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    of_linears = {key: kind for key, kind in description.items() if key.endswith("_proj.weight") and kind != "FLOAT"}
    assert {key.removesuffix(".weight") for key in of_linears} == layout.linears.keys()


def test_integers_read_back_exactly_and_weights_are_those_of_the_fake_form(exported):
    layout, fake, folder, fake_checkpoint = exported
    checkpoint = Weights(folder, layout.stem)
    for prefix, linear in layout.linears.items():
        found = layout.read(checkpoint, linear)
        for part, tensor in found._asdict().items():
            assert torch.equal(tensor, layout.qparams[f"{prefix}.{part}"])
            assert tensor.dtype == layout.qparams[f"{prefix}.{part}"].dtype
        weight = layout.read_weight(checkpoint, linear)
        torch.testing.assert_close(weight.bfloat16().float(), fake.read_weight(fake_checkpoint, linear), rtol=0, atol=0)


def test_static_linears_compute_what_the_fake_form_computes(model, quantized, work):
    paths = quantized("w8a8-static")
    folder = export(model, paths, RECIPES["w8a8-static"], work / f"{model.name}-static", "modelslim")
    fake_folder = export(model, paths, RECIPES["w8a8-static"], work / f"{model.name}-static-fake")
    loaded = AutoModelForCausalLM.from_pretrained(fake_folder, dtype=torch.bfloat16)
    checkpoint = Weights(folder, "quant_model_weights")
    for name, linear in loaded.model.layers[1].named_modules():
        if not name.endswith("_proj"):
            continue
        parts = ("weight", "input_scale", "input_offset", "deq_scale", "quant_bias")
        weight, scale, offset, deq_scale, bias = (checkpoint[f"model.layers.1.{name}.{part}"] for part in parts)
        x = torch.randn(7, linear.in_features, generator=torch.Generator().manual_seed(0)).bfloat16() * 32 * scale
        integers = torch.round(x.float() * scale.reciprocal().float() + offset).clamp(-128, 127)  # as the engine
        found = (integers.double() @ weight.double().T + bias) * deq_scale
        with torch.no_grad():
            expected = linear(x)
        # The engine's 1 / scale is a bfloat16 number: values near a rounding boundary go the other way.
        assert ((found - expected).norm() / expected.norm()).item() < 0.02, name  # rounding x: 0.009


def test_static_scales_of_fused_linears_are_equal_and_those_of_their_smoothed_inputs(model, quantized, work):
    qparams = QParams(quantized("w8a8-static"))
    scales = {name: qparams[name] for name in qparams if name.endswith("input_scale")}
    assert len(scales) == 2 * 7
    assert all(torch.equal(scale, scale.bfloat16().float()) for scale in scales.values())
    absmax = read_absmax(work / f"{model.name}-w8a8-static" / "calibration-1" / "statistics.parquet")[0]["qkv"]
    smoothed = absmax / qparams["model.layers.0.qkv.smoothing_scale"]
    for linear in "qkv":
        found = scales[f"model.layers.0.self_attn.{linear}_proj.input_scale"]
        torch.testing.assert_close(found, smoothed.max().view(1) / 127, rtol=2**-8, atol=0)


def test_static_scales_of_small_inputs_have_an_inverse_in_float16(work):
    """By which the engine multiplies: max|x| / 127 of inputs below 1.9e-3 has none."""
    source = tiny_model(work / "small-inputs", dtype=torch.float16, layers=1)
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.input_layernorm.weight"].mul_(1e-5)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    Manifest.of_folder(source, [path.name for path in source.iterdir() if path.name != "manifest.json"], {}).write(source)
    recipe = resolve({"preset": "smoothquant-w8a8-static-ascend", "transform": {"name": "none"}})
    paths = quantize(source, collect(source, work / "small-inputs"), recipe, work / "small-inputs-q")
    folder = export(source, paths, recipe, work / "small-inputs-slim", "modelslim")
    stored = Weights(folder, "quant_model_weights")
    step = stored["model.layers.0.self_attn.q_proj.input_scale"]
    assert step.dtype == torch.float16
    assert 65000 < step.reciprocal().item() < math.inf
    assert stored["model.layers.0.mlp.down_proj.input_scale"] > 10 * step
    config = json.loads((source / "config.json").read_text())
    layout = registry.layout("modelslim")(Weights(source), QParams(paths), recipe, config)
    assert [finding for finding in findings(layout, folder, None) if finding.mismatch] == []


def test_static_cache_is_written_by_channel_without_offsets(work):
    recipe = resolve({"preset": "smoothquant-w8a8kv8-ascend"})
    source = tiny_model(work / "cached", "qwen3", torch.bfloat16, layers=2)
    paths = quantize(source, collect(source, work / "cached-q"), recipe, work / "cached-q")
    folder = export(source, paths, recipe, work / "cached-c", "modelslim")
    checkpoint, qparams = Weights(folder, "quant_model_weights"), QParams(paths)
    description = json.loads((folder / DESCRIPTION).read_text())
    assert description["kv_cache_type"] == "C8"
    for linear, name in (("k_proj", "k"), ("v_proj", "v")):
        prefix = f"model.layers.1.self_attn.{linear}"
        scale = qparams[f"model.layers.1.self_attn.cache_transform.{name}_scale"]
        assert torch.equal(checkpoint[f"{prefix}.kv_cache_scale"], scale.flatten())
        assert not checkpoint[f"{prefix}.kv_cache_offset"].any()
        assert description[f"{prefix}.kv_cache_scale"] == "C8"


def test_verification_finds_nothing_to_complain_about(exported):
    layout, _, folder, fake_checkpoint = exported
    found = list(findings(layout, folder, fake_checkpoint))
    assert len(found) > len(layout.linears)
    assert [finding for finding in found if finding.mismatch] == []


def test_types_follow_the_recipe(model, quantized):
    documents = layout_of(model, "w4a4-flat", QParams(quantized("w4a4-flat"))).documents()
    description = documents[DESCRIPTION]
    types = {key.split(".")[-2]: kind for key, kind in description.items() if key.endswith("_proj.weight")}
    assert types == dict.fromkeys(["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"], "W4A4_FLATQUANT_DYNAMIC") | {
        "o_proj": "W8A8_DYNAMIC",
        "down_proj": "W8A8_DYNAMIC",
    }
    assert description["model_quant_type"] == "W4A4_FLATQUANT_DYNAMIC"
    assert description["model.embed_tokens.weight"] == "FLOAT"


def test_stored_transforms_undo_what_was_folded_into_the_weights(model, quantized, work):
    paths = quantized("w4a4-flat")
    folder = export(model, paths, RECIPES["w4a4-flat"], work / f"{model.name}-law", "modelslim")
    checkpoint, qparams, source = Weights(folder, "quant_model_weights"), QParams(paths), Weights(model)
    x = torch.randn(5, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for norm, readers in READERS.items():
        for reader in readers:
            prefix = f"model.layers.1.{reader}"
            left, right = (checkpoint[f"{prefix}.{side}_trans"].double() for side in ("left", "right"))
            rows = x.view(5, len(left), len(right))
            transformed = torch.stack([left.T @ row @ right for row in rows]).flatten(1)
            torch.testing.assert_close(transformed, x @ torch.kron(left, right))  # x̂ = Lᵀ X R
            site = "qkv" if norm == "input_layernorm" else "gate_up"
            scale = qparams[f"model.layers.1.{site}.smoothing_scale"].double()
            folded = (source[f"{prefix}.weight"].double() * scale) @ torch.linalg.inv(torch.kron(left, right)).T
            torch.testing.assert_close(transformed @ folded.T, x * scale @ source[f"{prefix}.weight"].double().T)  # Ŵ x̂ = W x
            integers, steps = (checkpoint[f"{prefix}.{part}"].double() for part in ("weight", "weight_scale"))
            assert ((integers * steps - folded).norm() / folded.norm()).item() < 0.2  # the file's weight is Ŵ, rounded


def test_what_fused_linears_share_is_equal_in_all_of_them(model, quantized, work):
    folder = export(model, quantized("w4a4-flat"), RECIPES["w4a4-flat"], work / f"{model.name}-shared", "modelslim")
    checkpoint = Weights(folder, "quant_model_weights")
    for layer in range(2):
        for readers in READERS.values():
            for part in ("left_trans", "right_trans", "clip_ratio"):
                first, *others = (checkpoint[f"model.layers.{layer}.{reader}.{part}"] for reader in readers)
                assert all(torch.equal(first, other) for other in others)
            assert 0.5 < checkpoint[f"model.layers.{layer}.{readers[0]}.clip_ratio"].item() < 1  # the ratio, not its logit


@pytest.mark.parametrize("clip", [[[0.9, 0.9]], [[0.98, 0.97]]])
def test_clips_that_one_engine_call_cannot_apply_are_refused_by_name(model, quantized, clip):
    name = "model.layers.0.self_attn.k_proj.input_clip"
    qparams = dict(QParams(quantized("w4a4-flat"))) | {name: torch.tensor(clip)}
    layout = layout_of(model, "w4a4-flat", qparams)
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        layout.tensors_of("model.layers.0.self_attn.q_proj.weight")


def test_zero_points_are_refused_by_name(model, quantized):
    name = "model.layers.0.mlp.up_proj.zero_point"
    qparams = dict(QParams(quantized("w4a4")))
    layout = layout_of(model, "w4a4", qparams | {name: torch.ones_like(qparams[name])})
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        layout.tensors_of("model.layers.0.mlp.up_proj.weight")


SYMMETRIC8 = {"weights": {"num_bits": 8, "strategy": "channel"}, "input_activations": {"num_bits": 8}}
DENSE = {"model_type": "qwen2", "num_hidden_layers": 2, "num_attention_heads": 28, "num_key_value_heads": 4} | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
}


def rtn(**scheme):
    return {"scheme": SYMMETRIC8 | scheme}


REFUSED = {
    "awq": ({"preset": "awq-w4a16"}, "no W4A16 linear"),
    "asymmetric": (rtn(weights={"num_bits": 8, "strategy": "channel", "symmetric": False}), "zero points of weights"),
    "w3": (rtn(weights={"num_bits": 3, "strategy": "channel"}, input_activations=None), "no W3A16 linear"),
    "w4a16": (
        rtn(weights={"num_bits": 4, "strategy": "channel"}, input_activations=None),
        "no W4A16 .*NotImplementedError",
    ),
    "w4a8": (rtn(weights={"num_bits": 4, "strategy": "channel"}), "W4A8_DYNAMIC linear drops the bias"),
    "w8a4": (rtn(input_activations={"num_bits": 4}), "no W8A4 linear"),
    "groups": (rtn(weights={"num_bits": 8, "strategy": "group", "group_size": 128}), "one scale per row"),
    "asymmetric inputs": ({"preset": "rtn-w8a8"}, "quantize inputs symmetrically .*-ascend presets"),
    "shards": ({"preset": "rtn-w8a8-ascend", "input_shards": 2}, "input_shards 1"),
    "kv4": ({"preset": "rtn-w8a8-ascend", "scheme": {"kv_cache": {"num_bits": 4}}}, "not of 4 bits"),
    "c8 on qwen2": (
        {"preset": "rtn-w8a8-ascend", "scheme": {"kv_cache": {"num_bits": 8}}},
        "Qwen3, not into qwen2 .KeyError",
    ),
    "flat o": (
        {"preset": "flatquant-w4a4-ascend", "transform": {"sites": ["qkv", "o", "gate_up", "down"]}},
        "no input of o_proj as FlatQuant",
    ),
    "flat down": (
        {"preset": "flatquant-w4a4-ascend", "transform": {"name": "flatquant", "sites": ["qkv", "down"]}},
        "no input of down_proj as FlatQuant",
    ),
    "flat w8a8": (rtn() | {"transform": FLAT}, "W4A4 alone, not for W8A8 .*W8A8_FLATQUANT_DYNAMIC"),
    "flat float": (
        {"preset": "flatquant-w4a4-ascend", "overrides": [FLOAT_LAYER]},
        "q_proj of layer 1 reads an input that FlatQuant transforms",
    ),
    "mixed fused": (
        {"preset": "rtn-w8a8-ascend", "overrides": [{"linears": ["k_proj"], "weights": None, "input_activations": None}]},
        "q_proj and k_proj of layer 0 are quantized differently",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("config", [DENSE, None])
def test_what_the_engine_cannot_serve_is_refused_with_the_reason_and_a_remedy(case, config):
    entry, message = REFUSED[case]
    if config is None and "qwen2" in message:
        message = "one static scale per channel"
    reason = registry.refusal("modelslim", resolve(entry), config)
    assert reason is not None
    assert re.search(message, reason), reason
    assert "; " in reason


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({}, "one static scale per channel"),
        ({"dynamic": "values"}, "one static scale per channel"),
        ({"dynamic": False}, "ignores offsets"),
        ({"dynamic": False, "symmetric": True, "keys": "pre_rope"}, "keys after RoPE"),
    ],
)
def test_caches_of_another_kind_are_refused_on_qwen3_too(cache, message):
    recipe = resolve({"preset": "rtn-w8a8-ascend", "scheme": {"kv_cache": {"num_bits": 8, **cache}}})
    assert message in registry.refusal("modelslim", recipe, DENSE | {"model_type": "qwen3"})


def test_static_inputs_that_cannot_be_are_refused():
    static = {"num_bits": 8, "strategy": "tensor", "dynamic": False}
    for wrong, message in (({"dynamic": True}, "goes with strategy: tensor"), ({"symmetric": False}, "on both sides")):
        with pytest.raises(ValueError, match=message):
            resolve(rtn(input_activations=static | wrong))
    with pytest.raises(ValueError, match="flatquant changes the range"):
        resolve(rtn(input_activations=static) | {"transform": FLAT})
    recipe = resolve(rtn(weights={"num_bits": 4, "strategy": "channel"}, input_activations=static | {"num_bits": 4}))
    assert "static inputs for W8A8 alone" in registry.refusal("modelslim", recipe, DENSE)


def test_transforms_that_the_kernel_does_not_take_are_refused_by_their_sides():
    recipe = resolve({"preset": "flatquant-w4a4-ascend"})
    assert registry.refusal("modelslim", recipe, DENSE) is None
    wide = DENSE | {"hidden_size": 18944, "num_attention_heads": 148}
    assert "128 x 148 transform of the 18944 inputs of q_proj" in registry.refusal("modelslim", recipe, wide)
    ragged = DENSE | {"hidden_size": 4 * 257, "num_attention_heads": 4}
    assert "not whole words of 8" in registry.refusal("modelslim", resolve({"preset": "rtn-w4a4-ascend"}), ragged)
