"""The KV cache: where keys are quantized, the bias of k_proj, static ranges."""

import json

import pytest
import torch
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.schemas import DIAGNOSTICS
from ptqflow.artifacts.tables import read_table
from ptqflow.devices.device import select
from ptqflow.errors import ConfigError
from ptqflow.methods.running import Running
from ptqflow.methods.static import ranges_over_positions
from ptqflow.modeling.blocks import Blocks, forward
from ptqflow.modeling.cache import CacheQuantizer, CacheRanges, attach, quantize_cache, static_qparams
from ptqflow.modeling.online import FlatCache
from ptqflow.modeling.shapes import check_recipe
from ptqflow.numerics.convention import Grid
from ptqflow.numerics.grid import fake_quantize, scale_and_zero_point
from ptqflow.numerics.straight_through import fake_quantize_clipped
from ptqflow.presets import resolve
from ptqflow.recipes import Recipe
from ptqflow.scheme import CacheArgs
from safetensors.torch import load_file, save_file
from tiny_models import collect, export, fake_checkpoint, quantize, tiny_model
from transformers import AutoModelForCausalLM

BIAS = 60.0  # beside keys of about 1


def cache(**args):
    return Recipe.model_validate({"scheme": {"kv_cache": args}})


PLACES = {
    "post": {},
    "pre": {"keys": "pre_rope"},
    "separate": {"keys": "pre_rope", "key_bias": "separate"},
    "kvquant": {"keys": "pre_rope", "key_bias": "separate", "dynamic": "values"},
    "static": {"dynamic": False},
    "c8": {"dynamic": False, "symmetric": True},
}


@pytest.fixture(scope="module")
def biased(tmp_path_factory):
    """A model whose keys are mostly bias, as in Qwen2.5 1.5B: a few channels of each head, far above all others."""
    folder = tiny_model(tmp_path_factory.mktemp("cache") / "m", outliers=False)
    tensors = load_file(folder / "model.safetensors")
    for name, bias in tensors.items():
        if name.endswith("k_proj.bias"):
            bias.view(2, 32)[:, [3, 19, 14]] += torch.tensor([BIAS, -BIAS, BIAS])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    Manifest.of_folder(folder, [path.name for path in folder.iterdir() if path.name != "manifest.json"], {}).write(folder)
    return folder


@pytest.fixture(scope="module")
def calibration(biased, tmp_path_factory):
    return collect(biased, tmp_path_factory.mktemp("calibration"))


@pytest.fixture(scope="module")
def errors(biased, calibration, tmp_path_factory):
    """Output error of the first block at 4 bits, by place."""
    found = {}
    for name, args in PLACES.items():
        work = tmp_path_factory.mktemp(name)
        quantize(biased, calibration, cache(num_bits=4, **args), work)
        table = read_table(work / "chunk=0/diagnostics.parquet", DIAGNOSTICS, ["module", "output_error"]).to_pylist()
        found[name] = next(row["output_error"] for row in table if row["module"] == "block")
    return found


def test_keys_that_are_mostly_bias_survive_4_bits_only_where_the_bias_is_kept_out(errors):
    assert errors["post"] > 10 * errors["separate"]
    assert errors["pre"] > 10 * errors["separate"]  # the bias still is the range of each token
    assert errors["separate"] < 0.02


def test_static_ranges_by_channel_serve_keys_before_rope(errors):
    assert errors["kvquant"] < 0.02
    assert errors["static"] > 3 * errors["kvquant"]  # RoPE mixes biased channels with others


@pytest.mark.parametrize("place", PLACES)
def test_decoding_with_a_cache_equals_a_full_forward_pass(biased, calibration, place, tmp_path):
    recipe = cache(num_bits=4, **PLACES[place])
    checkpoint = export(biased, quantize(biased, calibration, recipe, tmp_path), recipe, tmp_path / "checkpoint")
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    tokens = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        full = model(tokens).logits
        past, steps = None, []
        for part in tokens.split([4, 1, 1, 3], 1):
            output = model(part, past_key_values=past, use_cache=True)
            past = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, 1), full, rtol=1e-3, atol=1e-3)
    plain = AutoModelForCausalLM.from_pretrained(biased).eval()
    with torch.no_grad():
        assert (plain(tokens).logits - full).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_keys_before_rope_are_those_of_the_projection_or_its_norm(kind, tmp_path):
    """And RoPE of quantized keys is what attention reads."""
    blocks = Blocks(tiny_model(tmp_path / kind, kind), torch.device("cpu"), torch.float32)
    seen = {}
    for name in ("float", "quantized"):
        block = blocks.build(0, blocks.tensors(0))
        if name == "quantized":
            quantize_cache(block, CacheArgs(num_bits=4, keys="pre_rope"))
        source = block.self_attn.k_norm if kind == "qwen3" else block.self_attn.k_proj
        source.register_forward_hook(lambda module, inputs, output, name=name: seen.__setitem__(name, output))
        hidden = blocks.embed(torch.arange(3, 15).view(1, 12))
        seen[f"{name} block"] = forward(block, hidden, blocks.positions(12))
    heads = (1, 12, 2, blocks.config.head_dim if kind == "qwen3" else 32)
    assert torch.equal(seen["quantized"].reshape(heads), fake_quantize(seen["float"].reshape(heads), 4, False))
    assert not torch.equal(seen["float block"], seen["quantized block"])


@pytest.mark.parametrize("values", [None, 2])
@pytest.mark.parametrize("symmetric", [True, False])
def test_dynamic_ranges_are_of_each_token_and_head_on_the_grid_asked_for(symmetric, values):
    key, value = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 6)
    found = CacheQuantizer(CacheArgs(num_bits=4, value_bits=values, symmetric=symmetric), 3, 6, key)(key, value)
    for quantized, x, bits in zip(found, (key, value), (4, values or 4), strict=True):
        assert torch.equal(quantized, fake_quantize(x, bits, symmetric))


@pytest.mark.parametrize(("dynamic", "static"), [(False, "kv"), ("values", "k")])
def test_static_ranges_are_of_each_head_and_channel_and_say_what_is_beyond_them(dynamic, static):
    states = {"k": 3 * torch.randn(2, 3, 5, 6), "v": 3 * torch.randn(2, 3, 5, 6)}
    quantizer = CacheQuantizer(CacheArgs(num_bits=4, value_bits=3, dynamic=dynamic), 3, 6, states["k"])
    scale, zero_point = 0.1 + torch.rand(3, 6), torch.randint(0, 8, (3, 6)).float()
    for name in static:
        getattr(quantizer, f"{name}_scale").data, getattr(quantizer, f"{name}_zero_point").data = scale, zero_point
    assert len(list(quantizer.parameters())) == 2 * len(static)
    for (name, x), found in zip(states.items(), quantizer(*states.values()), strict=True):
        s, z = scale.view(1, 3, 1, 6), zero_point.view(1, 3, 1, 6)
        bits = {"k": 4, "v": 3}[name]
        rounded = (((x / s).round() + z).clamp(0, 2**bits - 1) - z) * s
        expected = rounded if name in static else fake_quantize(x, bits, False)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("symmetric", [True, False])
def test_turned_keys_and_values_have_ratios_of_their_own(symmetric):
    key, value = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 6)
    flat = FlatCache(CacheArgs(num_bits=4, value_bits=2, symmetric=symmetric), 6, key)
    flat.k_trans.data, flat.k_clip.data = torch.randn(6, 6), torch.tensor([[0.9, 0.6]])
    flat.v_clip.data = torch.tensor([[0.5, 0.8]])
    keys, values = flat(key, value)
    assert torch.equal(keys, fake_quantize_clipped(key @ flat.k_trans, 4, symmetric, flat.k_clip))
    assert torch.equal(values, fake_quantize_clipped(value, 2, symmetric, flat.v_clip))


def test_fewer_bits_for_values_cost_less_than_fewer_for_keys_that_are_mostly_bias(biased, calibration, tmp_path):
    """And each costs what it does alone: the error of both at once is at least that of either at its own bits."""
    errors = {}
    for keys, values in ((8, 8), (8, 3), (3, 8), (3, 3)):
        quantize(biased, calibration, cache(num_bits=keys, value_bits=values), tmp_path / f"{keys}{values}")
        table = read_table(tmp_path / f"{keys}{values}/chunk=0/diagnostics.parquet", DIAGNOSTICS).to_pylist()
        errors[keys, values] = next(row["output_error"] for row in table if row["module"] == "block")
    assert errors[8, 8] < errors[8, 3] < errors[3, 8] <= 1.1 * errors[3, 3]


def test_a_bias_kept_out_is_added_back_in_the_dtype_of_the_model():
    key, bias = torch.randn(2, 5, 64).bfloat16(), (100 * torch.randn(64)).bfloat16()
    quantizer = CacheQuantizer(CacheArgs(num_bits=8, keys="pre_rope", key_bias="separate"), 2, 32, key)
    found = quantizer.before_rope(key, 2, bias)
    rest = (key.float() - bias.float()).view(2, 5, 2, 32)
    assert torch.equal(found, (fake_quantize(rest, 8, False).view(2, 5, 64) + bias.float()).bfloat16())


def test_static_ranges_are_those_of_all_calibration_tokens_by_channel():
    ranges = CacheRanges(CacheArgs(num_bits=8, dynamic=False))
    keys, values = torch.randn(4, 3, 6, 8) + 2, torch.randn(4, 3, 6, 8)
    for key, value in zip(keys.split(2), values.split(2), strict=True):
        ranges(key, value)
    found = static_qparams(ranges)
    by_channel = keys.permute(1, 3, 0, 2).flatten(2)
    expected = scale_and_zero_point(by_channel.amin(-1), by_channel.amax(-1), Grid(8, False))
    assert torch.equal(found["self_attn.cache_transform.k_scale"], expected[0])
    assert torch.equal(found["self_attn.cache_transform.k_zero_point"], expected[1])
    halved = static_qparams(ranges, torch.full((24,), 2.0))
    torch.testing.assert_close(halved["self_attn.cache_transform.v_scale"], found["self_attn.cache_transform.v_scale"] / 2)
    assert torch.equal(halved["self_attn.cache_transform.k_scale"], found["self_attn.cache_transform.k_scale"])


def test_symmetric_static_ranges_have_no_zero_point(biased, calibration, tmp_path):
    """As kernels with one scale per channel of the whole projection want them."""
    recipe = cache(num_bits=8, **PLACES["c8"])
    checkpoint = export(biased, quantize(biased, calibration, recipe, tmp_path), recipe, tmp_path / "checkpoint")
    tensors = load_file(checkpoint / "model.safetensors")
    found = {name.rpartition(".")[2]: t for name, t in tensors.items() if "layers.1.self_attn.cache_transform" in name}
    assert sorted(found) == ["k_scale", "k_zero_point", "v_scale", "v_zero_point"]
    assert {t.shape for t in found.values()} == {(2, 32)}
    assert not found["k_zero_point"].any()


def test_smoothed_values_are_quantized_on_the_range_they_have(tmp_path):
    """v_proj's rows are divided by the scale of o_proj's input, and so are the ranges of values."""
    model = tiny_model(tmp_path / "m")
    recipe = Recipe.model_validate(
        {
            "scheme": {"kv_cache": {"num_bits": 4, "dynamic": False}, "input_activations": {"num_bits": 8}},
            "transform": {"name": "smoothquant", "sites": ["o"]},
        }
    )
    checkpoint = load_file(fake_checkpoint(model, recipe, tmp_path) / "model.safetensors")
    plain = recipe.model_copy(update={"transform": cache(num_bits=4).transform})
    unsmoothed = load_file(fake_checkpoint(model, plain, tmp_path / "plain") / "model.safetensors")
    name = "model.layers.0.self_attn.{}"
    divisor = load_file(model / "model.safetensors")[name.format("v_proj.bias")] / checkpoint[name.format("v_proj.bias")]
    ratio = unsmoothed[name.format("cache_transform.v_scale")] / checkpoint[name.format("cache_transform.v_scale")]
    torch.testing.assert_close(ratio.flatten(), divisor, rtol=0.02, atol=0)
    assert divisor.std() > 0.1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"scheme": {"kv_cache": {"num_bits": 4, "key_bias": "separate"}}}, "needs keys pre_rope"),
        ({"preset": "flatquant-w4a4kv4", "scheme": {"kv_cache": {"num_bits": 4, "keys": "pre_rope"}}}, "post_rope and"),
        ({"preset": "flatquant-w4a4kv4", "scheme": {"kv_cache": {"num_bits": 4, "dynamic": False}}}, "dynamic true"),
    ],
)
def test_impossible_caches_are_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        resolve(entry)


def test_a_bias_before_a_norm_cannot_be_kept_out(tmp_path):
    config = json.loads((tiny_model(tmp_path / "m", "qwen3") / "config.json").read_text())
    check_recipe(resolve({"preset": "kvquant-kv4"}), config, "r", "m")  # without a bias there is nothing to keep out
    with pytest.raises(ConfigError, match="key_bias separate: a norm follows the key bias"):
        check_recipe(resolve({"preset": "kvquant-kv4"}), config | {"attention_bias": True}, "r", "m")


def test_ranges_change_nothing(tmp_path):
    blocks = Blocks(tiny_model(tmp_path / "m"), torch.device("cpu"), torch.bfloat16)
    hidden = blocks.embed(torch.arange(3, 15).view(1, 12))
    outputs = []
    for args in (None, CacheArgs(num_bits=4, keys="pre_rope", dynamic=False)):
        block = blocks.build(0, blocks.tensors(0))
        if args is not None:
            attach(block, CacheRanges(args))
        outputs.append(forward(block, hidden, blocks.positions(12)))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("sequences", [16, 3, 1])  # of 8 tokens: 3 and 1 are taken again and again
def test_ranges_after_rope_are_those_of_the_positions_asked_for(biased, sequences):
    """Of keys that are mostly bias: what RoPE makes of the bias, k cos(pw) - k' sin(pw), at all these positions p."""
    blocks, args = Blocks(biased, torch.device("cpu"), torch.float32), {"num_bits": 8, "dynamic": False, "positions": 128}
    tensors = blocks.tensors(0)
    run = Running(blocks, 0, cache(**args), select("cpu"), tensors, list(tensors.values()), 8, 16)
    hidden = blocks.embed(torch.arange(128).view(16, 8) % 64)[:sequences]
    found = ranges_over_positions(run, hidden, 128)
    bias = next(t for name, t in tensors.items() if name.endswith("k_proj.bias")).view(2, 1, 32)
    cosines, sines = blocks.positions(128)
    turned = bias * cosines + torch.cat([-bias[..., 16:], bias[..., :16]], -1) * sines
    low, high = turned.amin(1), turned.amax(1)
    wide = high - low > 1.5 * BIAS  # 3 and 19 of each head are biased and turn all the way; 14 hardly turns
    assert wide.nonzero().tolist() == [[0, 3], [0, 19], [1, 3], [1, 19]]
    for ours, expected in ((found.low["k"], low), (found.high["k"], high)):
        torch.testing.assert_close(ours[wide], expected[wide], rtol=0, atol=0.1 * BIAS)
    short = ranges_over_positions(run, hidden, 8)
    assert (short.high["k"] - short.low["k"])[wide].min() < 0.7 * (high - low)[wide].min()


@pytest.mark.parametrize("args", [{}, {"dynamic": "values", "keys": "pre_rope"}])
def test_positions_are_refused_where_no_range_depends_on_them(args):
    with pytest.raises(ValueError, match="positions are of static keys after RoPE"):
        cache(num_bits=8, positions=128, **args)


def test_ranges_of_a_static_cache_come_from_all_calibration_tokens():
    """A recipe that learns nothing from states sees a sample of them only."""
    assert resolve({"preset": "kvquant-kv4"}).learns_from_states()
    assert resolve({"preset": "rtn-w8a8kv8", "scheme": {"kv_cache": {"num_bits": 8, "dynamic": False}}}).learns_from_states()
    assert not resolve({"preset": "rtn-w8a8kv8"}).learns_from_states()
