"""The engine `transformers-int`: integer products are exact, and real checkpoints give what their fake form gives."""

import json
import re
import shutil
from dataclasses import replace
from functools import cache

import npu_kernels
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ptqflow.artifacts import schemas
from ptqflow.artifacts.tables import read_table
from ptqflow.checkpoints import registry
from ptqflow.devices import npu, products
from ptqflow.devices.device import select
from ptqflow.devices.products import Kernel, by_float32, by_int_mm, by_padded_int_mm, fastest, int8_kernel
from ptqflow.devices.roofline import int8_rate
from ptqflow.engines import protocol
from ptqflow.errors import ConfigError
from ptqflow.modeling.integer_linear import IntegerLinear, WeightOnlyLinear
from ptqflow.modeling.weights import Weights, save_safetensors
from ptqflow.presets import resolve
from tiny_models import VOCABULARY, export, quantize, stage

CPU = torch.device("cpu")
FORM, NAME = "compressed-tensors", "transformers-int"
GROUP = {"scheme": {"weights": {"group_size": 64}}}
_W4 = {"num_bits": 4, "symmetric": True, "strategy": "channel"}
_IN_GROUPS = {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 64}
# By name a recipe and its real forms: what vLLM serves, and what vllm-ascend does.
RECIPES = {
    "w8a8": ({"preset": "rtn-w8a8"}, FORM),
    "w8a8-symmetric": ({"preset": "rtn-w8a8-ascend"}, FORM, "modelslim"),
    "static": ({"preset": "rtn-w8a8-static-ascend"}, FORM, "modelslim"),
    "w4a16-symmetric": ({"preset": "rtn-w4a16", "scheme": {"weights": {"group_size": 64, "symmetric": True}}}, FORM),
    "w4a16-asymmetric": ({"preset": "awq-w4a16", **GROUP}, FORM),
    "w8a16": ({"preset": "rtn-w8a16-ascend"}, FORM, "modelslim"),
    "w4a8": ({"scheme": {"weights": _W4, "input_activations": {"num_bits": 8}}}, FORM),
    "w4a8-bytes": ({"scheme": {"weights": _W4, "input_activations": {"num_bits": 8, "symmetric": False}}}, FORM),
    "w4a8-groups": ({"scheme": {"weights": _IN_GROUPS, "input_activations": {"num_bits": 8}}}, FORM),
    "w4a4": ({"preset": "rtn-w4a4-ascend"}, FORM, "modelslim"),
    "flatquant": ({"preset": "flatquant-w4a4-ascend", "transform": {"epochs": 1}}, "modelslim"),
}
CHECKPOINTS = [(name, form) for name, (_, *forms) in RECIPES.items() for form in forms]


def random_int8(*shape, seed=0):
    return torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


@pytest.mark.parametrize("product", [by_float32, by_int_mm, by_padded_int_mm])
@settings(max_examples=20, deadline=None)
@given(m=st.integers(1, 40), n=st.integers(1, 40), k=st.integers(1, 2100), seed=st.integers(0, 2**16))
@example(m=1, n=2, k=1, seed=0)
def test_integer_products_are_exact(product, m, n, k, seed):
    rows, weight = random_int8(m, k, seed=seed), random_int8(n, k, seed=seed + 1)
    rows[0], weight[0] = -128, -128
    assert torch.equal(product(rows, weight), (rows.double() @ weight.double().T).to(torch.int32))


def saturating(rows, weight):
    """Pairs of products added in 16 bits, as VPMADDUBSW does; of the first row, the others right."""
    pairs = ((rows[0].int() + 128) * weight.int()).unflatten(-1, (-1, 2)).sum(-1)  # it wants one side unsigned
    found = by_float32(rows, weight)
    found[0] = pairs.clamp(-(2**15), 2**15 - 1).sum(-1) - 128 * weight.int().sum(-1)
    return found


def test_a_kernel_that_saturates_is_not_taken(monkeypatch, capsys):
    wrong, right = Kernel("saturates", saturating), Kernel("exact", by_float32)
    monkeypatch.setattr(products, "INT8", {"cpu": [wrong, right]})
    int8_kernel.cache_clear()
    try:
        assert int8_kernel(CPU) is right
        assert re.search(r"not taken on this device: saturates \(\d+ of 65536 numbers are wrong\)", capsys.readouterr().err)
        monkeypatch.setattr(products, "INT8", {"cpu": [wrong]})
        int8_kernel.cache_clear()
        with pytest.raises(ConfigError, match="no exact int8 product"):
            int8_kernel(CPU)
    finally:
        int8_kernel.cache_clear()


def test_a_kernel_that_is_not_taken_says_why(capsys):
    given = (torch.ones(2),)
    raises, half = Kernel("raises", lambda x: x.view(3)), Kernel("halves", lambda x: x.half())
    assert fastest([raises, half], given, given[0]) is None
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("not taken on this device: raises (RuntimeError: shape '[3]' is invalid")
    assert second == "not taken on this device: halves (torch.float16 [2] where torch.float32 [2] is asked for)"


@pytest.fixture(scope="module")
def made(model, calibration, work):
    """By recipe and form, the folder of a checkpoint: what is asked for is made once."""

    @cache
    def quantized(name):
        return quantize(model, calibration, resolve(RECIPES[name][0]), work / name)

    @cache
    def make(name, form="fake"):
        return export(model, quantized(name), resolve(RECIPES[name][0]), work / name / form, form)

    return make


@pytest.fixture(autouse=True)
def no_tokenizer(monkeypatch):
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: Tokenizer)


def scores(engine):
    windows = torch.randint(3, VOCABULARY, (4, 24), generator=torch.Generator().manual_seed(5))
    return torch.cat([nll for _, nll in engine.score(windows, 4)])


def with_biases_of(integer, fake):
    """ModelSlim's static inputs round a bias to a whole step of the result: half a step at most, which then both have."""
    for name, linear in integer.named_modules():
        if isinstance(linear, IntegerLinear) and (plain := fake.get_submodule(name)).bias is not None:
            step = linear.inputs.scheme.scale * linear.weight_scale[0]
            assert ((linear.bias - plain.bias).abs() <= step * 0.501).all()
            plain.bias.data = linear.bias


@pytest.mark.parametrize(("name", "form"), CHECKPOINTS)
def test_real_checkpoints_score_as_their_fake_form(made, name, form):
    fake = protocol.load("transformers", made(name), select("cpu"))
    engine = protocol.load(NAME, made(name, form), select("cpu"))
    linears = [m for m in engine.model.modules() if isinstance(m, (IntegerLinear, WeightOnlyLinear))]
    assert len(linears) == 3 * 7
    assert not any(isinstance(m, torch.nn.Linear) for n, m in engine.model.named_modules() if n != "lm_head")
    if (name, form) == ("static", "modelslim"):
        with_biases_of(engine.model, fake.model)
    # Inputs beside a rounding boundary fall on the other side now and then; weights alone leave float32 rounding.
    limit = 1e-4 if "a16" in name else 1e-2
    assert (scores(engine) - scores(fake)).abs().mean() < limit
    settings = engine.settings()
    assert settings["engine"] == NAME
    assert settings["kernels"]


@pytest.mark.parametrize("name", ["static", "flatquant"])
def test_what_is_for_npus_is_verified_to_its_logits_without_one(made, model, calibration, work, name, tmp_path):
    recipe, report = resolve(RECIPES[name][0]), tmp_path / "verification.parquet"
    settings = {"recipe": recipe.dump(), "form": "modelslim", "engine": registry.engine("modelslim", recipe)}
    options = ["--model", model / "manifest.json", "--fake", made(name) / "manifest.json", "--tokens", work / "tokens.parquet"]
    options += ["--qparams", work / name / "chunk=0" / "qparams.safetensors"]
    options += ["--checkpoint", made(name, "modelslim") / "manifest.json", "--output", report]
    assert stage("verify", settings, *options) == 0
    rows = {row["check"]: row for row in read_table(report, schemas.VERIFICATION).to_pylist()}
    assert rows["mean_logprob_difference"]["subject"] == NAME
    assert rows["mean_logprob_difference"]["value"] < rows["mean_logprob_difference"]["limit"]


def test_static_inputs_are_read_as_msmodelslim_writes_them(made, tmp_path):
    """Without the scales of weights, which `deq_scale` holds with those of inputs."""
    folder = shutil.copytree(made("static", "modelslim"), tmp_path / "copy")
    weights = Weights(folder, "quant_model_weights")
    left_out = (".weight_scale", ".weight_offset")
    kept = {name: tensor for name, tensor in weights.load(weights.file_of).items() if not name.endswith(left_out)}
    save_safetensors(folder / "quant_model_weights.safetensors", kept, {})
    whole, part = (protocol.load(NAME, place, select("cpu")) for place in (made("static", "modelslim"), folder))
    assert torch.equal(scores(whole), scores(part))


ON_NPU = [("w8a8-symmetric", "modelslim"), ("static", "modelslim"), ("w8a16", "modelslim"), ("flatquant", "modelslim")]
ON_NPU += [("w4a16-asymmetric", FORM), ("w4a8-groups", FORM), ("w8a8", FORM)]


@pytest.mark.parametrize(("name", "form"), ON_NPU)
def test_an_npus_operators_score_as_other_kernels(made, name, form, monkeypatch):
    """In bfloat16, by the reference kernels; AWQ's W4A16 among them, which vllm-ascend does not serve."""
    npu_kernels.register()
    device = replace(select("cpu"), compute_dtype=torch.bfloat16)
    here = protocol.load(NAME, made(name, form), device)
    monkeypatch.setattr(products, "FUSED", {"cpu": npu.Fused()})
    monkeypatch.setattr(products, "INT8", {"cpu": products.INT8["npu"][:1]})
    monkeypatch.setattr(npu, "WEIGHT_ONLY", {"cpu"})
    int8_kernel.cache_clear()
    try:
        there = protocol.load(NAME, made(name, form), device)
        assert all(kernel.startswith("npu_") for kernel in there.settings()["kernels"])
        # A number beside a boundary of bfloat16 or of a grid falls on the other side; a random model of 3 blocks passes that on.
        assert (scores(there) - scores(here)).abs().mean() < (0.3 if name == "flatquant" else 0.1)
    finally:
        int8_kernel.cache_clear()


@pytest.mark.parametrize(
    ("name", "parts", "kernel"),
    [
        ("w8a8", {"quantize", "product", "scale", "other"}, "mm"),
        ("w4a16-symmetric", {"product", "other"}, "aten::mm"),
    ],
)
def test_the_profile_proves_which_kernels_multiplied(made, name, parts, kernel):
    engine = protocol.load(NAME, made(name, FORM), select("cpu"))
    found = engine.parts(torch.randint(3, VOCABULARY, (2, 16)), 2)
    assert {(part.phase, part.part) for part in found} == {(phase, part) for phase in ("prefill", "decode") for part in parts}
    assert all(part.seconds > 0 for part in found)
    assert all(any(kernel in k for k in part.kernels) for part in found if part.part == "product")


def test_integers_are_held_in_fewer_bytes_than_the_floats(made, model):
    folders = {"w8a8": made("w8a8", FORM), "w4a16": made("w4a16-symmetric", FORM), "float": model}
    held = {name: protocol.load(NAME, folder, select("cpu")).memory(8) for name, folder in folders.items()}
    assert held["w4a16"].weight_bytes < held["w8a8"].weight_bytes < held["float"].weight_bytes
    assert [memory.multiplies_int8 for memory in held.values()] == [True, False, False]
    assert int8_rate(select("cpu")) > 1e8  # what the first is held against


class Tokenizer:
    eos_token_id = 2


def test_the_float_and_the_fake_model_run_in_the_same_engine(made, model):
    for folder in (model, made("w8a8")):
        ours, stock = (protocol.load(name, folder, select("cpu")) for name in (NAME, "transformers"))
        assert torch.equal(scores(ours), scores(stock))
        assert ours.settings() | {"engine": "transformers"} == stock.settings() | {"kernels": []}


def test_completions_end_at_all_stop_tokens_of_the_generation_config(made, tmp_path):
    folder = shutil.copytree(made("w8a8", FORM), tmp_path / "copy")
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [2, 7]}))
    assert {protocol.load(name, folder, select("cpu")).stop_tokens for name in (NAME, "transformers")} == {frozenset({2, 7})}


def test_a_quantized_head_is_not_tied_to_the_embedding(made, tmp_path):
    """As programs leave a model whose configuration still ties them: the embedding stays as it is, the head has integers."""
    folder = shutil.copytree(made("w8a8", FORM), tmp_path / "copy")
    weights = Weights(folder)
    tensors = weights.load(weights.file_of)
    embedding = tensors["model.embed_tokens.weight"]
    scale = embedding.abs().amax(1, keepdim=True) / 127
    tensors |= {"lm_head.weight": (embedding / scale).round().to(torch.int8), "lm_head.weight_scale": scale}
    save_safetensors(folder / "model.safetensors", tensors, {})
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"]
    config["quantization_config"]["ignore"] = []
    (folder / "config.json").write_text(json.dumps(config))
    whole, plain = (protocol.load(NAME, place, select("cpu")) for place in (folder, made("w8a8", FORM)))
    assert isinstance(whole.model.lm_head, IntegerLinear)
    assert torch.equal(whole.model.get_input_embeddings().weight, embedding.float())
    assert 0 < (scores(whole) - scores(plain)).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "gptq"}, "reads compressed-tensors and modelslim, not gptq"),
        ({"kv_cache_scheme": {"num_bits": 8, "type": "int", "dynamic": True}}, "static symmetric caches of 8-bit integers"),
        ("inputs", r"self_attn.* has no kernel for W8A12"),
    ],
)
def test_what_has_no_kernel_is_refused_by_name(made, tmp_path, change, message):
    folder = shutil.copytree(made("w8a8", FORM), tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    if change == "inputs":
        config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["num_bits"] = 12
    else:
        config["quantization_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        protocol.load(NAME, folder, select("cpu"))
