"""Form `fake` under a switch: what departs, and that nothing else does."""

import pytest
import torch
from ptqflow.checkpoints.registry import forms, refusal
from ptqflow.errors import ConfigError
from ptqflow.modeling.blocks import Blocks
from ptqflow.modeling.fake_quant import quantize_block
from ptqflow.modeling.qparams import QParams
from ptqflow.numerics import switches
from ptqflow.numerics.switches import KRONECKER
from ptqflow.presets import resolve
from ptqflow.transforms import kronecker
from safetensors.torch import load_file
from tiny_models import collect, export, quantize, tiny_model
from transformers import AutoModelForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

PLAIN = resolve({"preset": "flatquant-w4a4kv4", "transform": {"name": "flatquant", "epochs": 0}})


def under(name, recipe=PLAIN):
    return type(recipe).model_validate(recipe.dump() | {"emulate": name})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    work = tmp_path_factory.mktemp("switched")
    model = tiny_model(work / "model", layers=2, dtype=torch.bfloat16)
    return work, model, quantize(model, collect(model, work), PLAIN, work / "quantized")


@pytest.fixture(scope="module")
def models(made):
    work, model, chunks = made
    folders = {name: export(model, chunks, under(name), work / str(name)) for name in (None, "E4", "E7", "E8", "E11")}
    return {
        name: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        for name, folder in folders.items()
    }


def test_a_switch_is_in_the_recipe_that_is_served_and_not_in_what_is_calibrated(made):
    _, _, chunks = made
    assert "emulate" not in PLAIN.dump()
    assert under("E7").dump()["emulate"] == "E7"
    assert under("E7").for_layers(range(2)).dump() == PLAIN.for_layers(range(2)).dump()
    assert QParams(chunks).metadata[chunks[0]]["settings"]["recipe"] == under("E8").for_layers(range(2)).dump()
    weights = resolve({"preset": "rtn-w4a16", "emulate": "E8"})
    assert not weights.is_weight_only()
    assert resolve({"preset": "rtn-w4a16"}).is_weight_only()


@pytest.mark.parametrize("name", ["E4", "E7", "E8", "E11"])
def test_only_the_form_of_our_engine_holds_a_switch(name):
    recipe = under(name)
    assert refusal("fake", recipe, None) is None
    others = [form for form in forms() if form != "fake"]
    assert all(f"emulate {name} is of ours" in refusal(form, recipe, None) for form in others)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"preset": "rtn-w4a4kv4", "emulate": "E7"}, "E7 is of online transforms; use transform flatquant"),
        ({"preset": "flatquant-w4a4kv4", "transform": {"sites": ["o"]}, "emulate": "E4"}, "E4 is of online transforms"),
        ({"preset": "rtn-w8a8", "emulate": "E11"}, "E11 is of a cache quantized after RoPE"),
        ({"preset": "kvquant-kv4", "emulate": "E11"}, "E11 is of a cache quantized after RoPE"),
        ({"preset": "rtn-w8a8", "emulate": "E0"}, "E4"),
    ],
)
def test_a_switch_without_its_primitive_is_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        resolve(entry)


@pytest.mark.parametrize("name", ["E4", "E7"])
def test_e7_and_e4_round_inside_the_transforms_of_both_sides_alone(models, name):
    plain, switched = (models[key].model.layers[0] for key in (None, name))
    x = 3 * torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(0))
    norm = plain.input_layernorm
    before = Qwen2RMSNorm.forward(norm, x)
    assert torch.equal(plain.input_layernorm(x), kronecker.apply(before, norm.left_trans, norm.right_trans))
    assert torch.equal(switched.input_layernorm(x), kronecker.apply(before, norm.left_trans, norm.right_trans, KRONECKER[name]))
    assert not torch.equal(plain.input_layernorm(x), switched.input_layernorm(x))
    assert torch.equal(plain.self_attn.o_proj(x), switched.self_attn.o_proj(x))  # one side: another kernel's


def test_e8_is_what_stock_norms_compute_in_bfloat16_and_the_switch_computes_it_in_a_float32_model(models):
    x = torch.randn(4, 128, generator=torch.Generator().manual_seed(1))
    stock = Qwen2RMSNorm(128, eps=1e-6).bfloat16()
    stock.weight.data = torch.randn(128, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert torch.equal(stock(x.bfloat16()), switches.add_rms_norm(x, stock.weight, 1e-6))
    block = models["E8"].model.layers[1]
    norm = block.post_attention_layernorm
    rounded = switches.add_rms_norm(x, norm.weight, norm.variance_epsilon).float()
    assert torch.equal(norm(x), kronecker.apply(rounded, norm.left_trans, norm.right_trans))  # transformed after it
    assert not torch.equal(norm(x), models[None].model.layers[1].post_attention_layernorm(x))


def test_e8_is_refused_for_norms_of_one_plus_w(tmp_path):
    blocks = Blocks(tiny_model(tmp_path / "m", kind="gemma2", layers=1), torch.device("cpu"), torch.float32)
    block = blocks.build(0, blocks.tensors(0))
    with pytest.raises(ConfigError, match=r"E8 is of norms that multiply by w, and gemma2"):
        quantize_block(block, resolve({"preset": "rtn-w8a8", "emulate": "E8"}), 0)


def test_e11_reads_a_prompt_in_float_and_decodes_from_quantized_keys_and_values(models):
    tokens = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(3))

    def last(model):
        cache = model(tokens[:, :8], use_cache=True).past_key_values
        return model(tokens[:, 8:], past_key_values=cache).logits[:, -1]

    def at(model):
        return model(tokens).logits

    switched, plain = models["E11"], models[None]
    assert not torch.equal(at(switched), at(plain))
    kept = [layer.self_attn.cache_transform.args for layer in switched.model.layers]
    decoded = last(switched)
    for layer in switched.model.layers:  # no quantizer of the cache at all: what prefill should be
        layer.self_attn.cache_transform.args = None
    float_prompt, never = at(switched), last(switched)
    for layer, args in zip(switched.model.layers, kept, strict=True):
        layer.self_attn.cache_transform.args = args
    assert torch.equal(at(switched), float_prompt)
    assert not torch.equal(decoded, never)
    torch.testing.assert_close(last(plain), at(plain)[:, -1], atol=1e-4, rtol=1e-4)  # without the switch both read the same
    assert (last(switched) - at(switched)[:, -1]).abs().max() > 1e-3


def test_what_is_marked_always_changes_no_number_of_ours(made, models, tmp_path):
    work, model, chunks = made
    qparams = QParams(chunks)
    scales = [name for name in qparams if name.endswith(".scale")]
    assert scales
    for name in scales:
        assert torch.equal(switches.bfloat16_scale(qparams[name].float()), qparams[name].float())  # E6
    stored = load_file(work / "None" / "model.safetensors")
    prefix = "model.layers.1.mlp.gate_proj"
    integers, scale, zero = (qparams[f"{prefix}.{part}"].float() for part in ("integers", "scale", "zero_point"))
    groups = integers.unflatten(1, (scale.shape[1], -1))
    held = switches.bfloat16_weight(groups, zero.unsqueeze(-1), scale.unsqueeze(-1)).flatten(1)
    assert torch.equal(stored[f"{prefix}.weight"].float(), held)  # E10
    static = resolve(
        {"preset": "smoothquant-w8a8-static-ascend", "scheme": {"kv_cache": {"num_bits": 8, "symmetric": True, "dynamic": False}}}
    )
    found = QParams(quantize(model, collect(model, tmp_path), static, tmp_path / "static"))
    grids = [name for name in found if name.rpartition(".")[2] in ("input_scale", "k_scale", "v_scale")]
    assert len(grids) == 2 * (7 + 2)
    for name in grids:
        assert torch.equal(switches.bfloat16_scale(found[name].float()), found[name].float()), name
