"""The engine `transformers-int`: integer products are exact, and real checkpoints give what their fake form gives."""

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptqflow.devices import products
from ptqflow.devices.device import select
from ptqflow.devices.products import Int4Weight, Kernel, by_float32, by_int_mm, int8_kernel
from ptqflow.engines import protocol
from ptqflow.errors import ConfigError
from ptqflow.modeling.integer_linear import Int4Linear, Int8Linear
from ptqflow.numerics.grid import fake_quantize
from ptqflow.presets import resolve
from tiny_models import VOCABULARY, export, quantize

CPU = torch.device("cpu")
FORM, NAME = "compressed-tensors", "transformers-int"
GROUP = {"scheme": {"weights": {"group_size": 64}}}
RECIPES = {
    "w8a8": {"preset": "rtn-w8a8"},
    "w8a8-symmetric": {"preset": "rtn-w8a8", "scheme": {"input_activations": {"symmetric": True}}},
    "static": {
        "preset": "rtn-w8a8",
        "scheme": {"input_activations": {"dynamic": False, "strategy": "tensor", "symmetric": True}},
    },
    "w4-symmetric": {"preset": "rtn-w4a16", "scheme": {"weights": {"group_size": 64, "symmetric": True}}},
    "w4-asymmetric": {"preset": "awq-w4a16", **GROUP},
}


def random_int8(*shape, seed=0):
    return torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


@pytest.mark.parametrize("product", [by_float32, by_int_mm])
@settings(max_examples=20, deadline=None)
@given(m=st.integers(1, 40), n=st.integers(1, 40), k=st.integers(1, 2100), seed=st.integers(0, 2**16))
def test_integer_products_are_exact(product, m, n, k, seed):
    rows, weight = random_int8(m, k, seed=seed), random_int8(n, k, seed=seed + 1)
    rows[0], weight[0] = -128, -128
    assert torch.equal(product(rows, weight), (rows.double() @ weight.double().T).to(torch.int32))


def saturating(rows, weight):
    """Pairs of products added in 16 bits, as VPMADDUBSW does."""
    pairs = (rows.int()[:, None] * weight.int()).unflatten(-1, (-1, 2)).sum(-1)
    return pairs.clamp(-(2**15), 2**15 - 1).sum(-1).to(torch.int32)


def test_a_kernel_that_saturates_is_not_taken(monkeypatch):
    wrong, right = Kernel("saturates", saturating), Kernel("exact", by_float32)
    monkeypatch.setattr(products, "INT8", {"cpu": [wrong, right]})
    int8_kernel.cache_clear()
    try:
        assert int8_kernel(CPU) is right
        monkeypatch.setattr(products, "INT8", {"cpu": [wrong]})
        int8_kernel.cache_clear()
        with pytest.raises(ConfigError, match="no exact int8 product"):
            int8_kernel(CPU)
    finally:
        int8_kernel.cache_clear()


@pytest.mark.parametrize("inputs", ["symmetric", "asymmetric", "static"])
def test_an_int8_linear_is_its_definition(inputs):
    """The fake quantizer's inputs, and the product in float64."""
    x, weight = torch.randn(3, 5, 96, generator=torch.Generator().manual_seed(1)), random_int8(32, 96)
    x[0, 0], x[0, 1] = 0, x[0, 1].abs() + 1
    scale, bias = torch.rand(32, 1, generator=torch.Generator().manual_seed(2)) / 100, torch.randn(32)
    static = torch.tensor([0.02]) if inputs == "static" else None
    found = Int8Linear(weight, scale, bias, inputs != "asymmetric", static)(x)
    faked = fake_quantize(x, 8, inputs == "symmetric")
    if static is not None:
        faked = (x / static).round().clamp(-128, 127) * static
    exact = faked.double() @ (weight.double() * scale.double()).T + bias.double()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_static_asymmetric_inputs_are_refused():
    with pytest.raises(ValueError, match="static inputs are symmetric"):
        Int8Linear(random_int8(4, 8), torch.ones(4, 1), None, False, torch.ones(1))


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_packed_weight_is_its_definition(groups, symmetric):
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(0, 16, (48, 256), generator=generator, dtype=torch.uint8)
    scale = torch.rand(48, groups, generator=generator) / 10
    zero = torch.full((48, groups), 8, dtype=torch.uint8)
    if not symmetric:
        zero = torch.randint(0, 16, (48, groups), generator=generator, dtype=torch.uint8)
    x, bias = torch.randn(2, 7, 256, generator=generator), torch.randn(48)
    found = Int4Linear(Int4Weight(q, scale, zero, torch.float32, CPU), bias)(x)
    repeat = 256 // groups
    weight = (q.double() - zero.double().repeat_interleave(repeat, 1)) * scale.double().repeat_interleave(repeat, 1)
    torch.testing.assert_close(found.double(), x.double() @ weight.T + bias.double(), rtol=1e-5, atol=1e-4)


def test_a_weight_without_a_packed_kernel_is_refused():
    q, scale = torch.zeros(16, 96, dtype=torch.uint8), torch.ones(16, 4)
    with pytest.raises(ConfigError, match=r"groups of 24; groups must be multiples of 32"):
        Int4Weight(q, scale, torch.full((16, 4), 8, dtype=torch.uint8), torch.float32, CPU)


@pytest.fixture(scope="module")
def made(model, calibration, work):
    def make(name):
        recipe = resolve(RECIPES[name])
        qparams = quantize(model, calibration, recipe, work / name)
        return export(model, qparams, recipe, work / name / "fake"), export(model, qparams, recipe, work / name / FORM, FORM)

    return {name: make(name) for name in RECIPES}


def scores(folder, engine):
    windows = torch.randint(3, VOCABULARY, (4, 24), generator=torch.Generator().manual_seed(5))
    loaded = protocol.load(engine, folder, select("cpu"))
    return torch.cat([nll for _, nll in loaded.score(windows, 4)]), loaded


@pytest.mark.parametrize("name", RECIPES)
def test_real_checkpoints_score_as_their_fake_form(made, name, monkeypatch):
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: Tokenizer)
    fake, _ = scores(made[name][0], "transformers")
    found, engine = scores(made[name][1], NAME)
    linears = [m for m in engine.model.modules() if isinstance(m, (Int8Linear, Int4Linear))]
    assert len(linears) == 3 * 7
    assert not any(isinstance(m, torch.nn.Linear) for n, m in engine.model.named_modules() if n != "lm_head")
    # Inputs beside a rounding boundary fall on the other side now and then; weights alone leave float32 rounding.
    limit = 1e-4 if name.startswith("w4") else 1e-2
    assert (found - fake).abs().mean() < limit
    settings = engine.settings()
    assert settings["engine"] == NAME
    assert settings["kernels"]


@pytest.mark.parametrize(
    ("name", "parts", "kernel"),
    [
        ("w8a8", {"quantize", "product", "scale", "other"}, "mm"),
        ("w4-symmetric", {"product", "other"}, "aten::_weight_int4pack_mm_for_cpu"),
    ],
)
def test_the_profile_proves_which_kernels_multiplied(made, name, parts, kernel, monkeypatch):
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: Tokenizer)
    engine = protocol.load(NAME, made[name][1], select("cpu"))
    found = engine.parts(torch.randint(3, VOCABULARY, (2, 16)), 2)
    assert {(part.phase, part.part) for part in found} == {(phase, part) for phase in ("prefill", "decode") for part in parts}
    assert all(part.seconds > 0 for part in found)
    assert all(any(kernel in k for k in part.kernels) for part in found if part.part == "product")


def test_integers_are_held_in_fewer_bytes_than_the_floats(made, model, monkeypatch):
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: Tokenizer)
    held = {n: protocol.load(NAME, made[n][1], select("cpu")).memory(8).weight_bytes for n in ("w8a8", "w4-symmetric")}
    assert held["w4-symmetric"] < held["w8a8"] < protocol.load(NAME, model, select("cpu")).memory(8).weight_bytes


class Tokenizer:
    eos_token_id = 2


def test_the_float_and_the_fake_model_run_in_the_same_engine(made, model, monkeypatch):
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: Tokenizer)
    for folder in (model, made["w8a8"][0]):
        ours, engine = scores(folder, NAME)
        assert torch.equal(ours, scores(folder, "transformers")[0])
        assert engine.settings() | {"engine": "transformers"} == scores(folder, "transformers")[1].settings() | {"kernels": []}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "gptq"}, "reads compressed-tensors, not gptq"),
        ({"kv_cache_scheme": {"num_bits": 8, "type": "int"}}, "no quantized KV cache"),
        ("inputs", r"self_attn.* has no kernel for W8A4"),
    ],
)
def test_what_has_no_kernel_is_refused_by_name(made, tmp_path, change, message):
    folder = shutil.copytree(made["w8a8"][1], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    if change == "inputs":
        config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["num_bits"] = 4
    else:
        config["quantization_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        protocol.load(NAME, folder, select("cpu"))
