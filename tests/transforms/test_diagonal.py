import pytest
import torch
from ptqflow.devices.device import select
from ptqflow.methods.block import BlockInputs, BlockRounder
from ptqflow.modeling.blocks import Blocks, forward, watch_sites
from ptqflow.modeling.dimensions import head_dim
from ptqflow.modeling.qparams import deployed, transformed
from ptqflow.recipes import Recipe
from ptqflow.transforms import diagonal
from tiny_models import QWEN2, tiny_model

SITES = ("qkv", "o", "gate_up", "down")
ALL_SITES = Recipe.model_validate(
    {"scheme": {"input_activations": {"num_bits": 8}}, "transform": {"name": "smoothquant", "sites": list(SITES)}}
)


def block_of(folder, kind, dtype):
    """Block 0 of a tiny model: its walker, tensors, a hidden state, and statistics with wide ranges, by site."""
    blocks = Blocks(tiny_model(folder / "m", kind, layers=1), torch.device("cpu"), dtype)
    tensors = {name: tensor.to(dtype) for name, tensor in blocks.tensors(0).items()}
    hidden = torch.randn(2, 16, 128, dtype=dtype)
    widths = {}
    with watch_sites(block := blocks.build(0, tensors), lambda site, x: widths.update({site: x.shape[-1]})):
        output = forward(block, hidden, blocks.positions(16))
    absmax = {site: torch.rand(width) * 50 + 0.1 for site, width in widths.items()}
    inputs = BlockInputs({}, 1, absmax, absmax, head_dim(blocks.config.to_dict()), 2)
    return blocks, tensors, inputs, hidden, output


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaling_every_site_preserves_the_blocks_output(kind, dtype, tmp_path):
    blocks, tensors, inputs, hidden, before = block_of(tmp_path, kind, dtype)
    rounder = BlockRounder(QWEN2, 0, tensors, inputs, ALL_SITES, select("cpu"))
    rounder.round_all()
    qparams = rounder.qparams
    assert rounder.rows == []
    assert sorted(qparams) == sorted(f"model.layers.0.{site}.smoothing_scale" for site in SITES)
    smoothed = {name: deployed(name, tensor, qparams, QWEN2) for name, tensor in tensors.items()}
    changed = {name.removeprefix("model.layers.0.") for name in tensors if not torch.equal(tensors[name], smoothed[name])}
    linears = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    biases = {"self_attn.v_proj.bias"} if kind == "qwen2" else set()
    assert {name for name in changed if name.split(".")[-2] in linears and name.endswith("weight")} == {
        name.removeprefix("model.layers.0.") for name in tensors if name.split(".")[-2] in linears and name.endswith("weight")
    }
    assert {name for name in changed if name.split(".")[-2] not in linears or name.endswith("bias")} == biases | {
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
    }
    after = forward(blocks.build(0, smoothed), hidden, blocks.positions(16))
    assert ((after - before).norm() / (before - hidden).norm()).item() < 1e-6


def test_smoothing_alone_at_norms_is_the_default(tmp_path):
    _, tensors, inputs, *_ = block_of(tmp_path, "qwen2", torch.float32)
    recipe = ALL_SITES.model_copy(update={"transform": type(ALL_SITES.transform)(name="smoothquant")})
    qparams = BlockRounder(QWEN2, 0, tensors, inputs, recipe, select("cpu")).qparams
    assert sorted(qparams) == [f"model.layers.0.{site}.smoothing_scale" for site in ("gate_up", "qkv")]


def test_what_is_left_in_high_precision_is_not_touched(tmp_path):
    """Scaled weights are rounded to their dtype again. Values of o carry its scale into the cache."""
    _, tensors, inputs, *_ = block_of(tmp_path, "qwen2", torch.bfloat16)
    mlp = [{"linears": ["gate_proj", "down_proj"], "input_activations": None}]
    entries = {
        ("down", "gate_up", "o", "qkv"): [],
        ("gate_up", "o", "qkv"): mlp,  # of the two that read gate_up, up_proj still is quantized
        (): [{"input_activations": None}],
    }
    for sites, overrides in entries.items():
        recipe = Recipe.model_validate(ALL_SITES.dump() | {"overrides": overrides})
        qparams = BlockRounder(QWEN2, 0, tensors, inputs, recipe, select("cpu")).qparams
        assert sorted(qparams) == [f"model.layers.0.{site}.smoothing_scale" for site in sites]
    cached = Recipe.model_validate(ALL_SITES.dump() | {"scheme": {"kv_cache": {"num_bits": 8}}})
    qparams = BlockRounder(QWEN2, 0, tensors, inputs, cached, select("cpu")).qparams
    assert sorted(qparams) == ["model.layers.0.o.smoothing_scale"]


def test_query_heads_of_a_value_head_share_its_scale():
    x = torch.rand(4 * 3)  # 4 query heads of 3 channels, 2 value heads
    scale = diagonal.by_value_head(x, 2, 3, "mean")
    assert scale.shape == (2, 2, 3)
    heads = x.view(2, 2, 3)
    torch.testing.assert_close(diagonal.rows(scale), ((heads[:, 0] + heads[:, 1]) / 2).flatten())
    torch.testing.assert_close(diagonal.columns(scale), heads.mean(1).repeat_interleave(2, 0).flatten())
    assert torch.equal(diagonal.rows(diagonal.by_value_head(x, 2, 3, "max")), heads.amax(1).flatten())


def test_a_linear_takes_the_scale_it_reads_on_columns_and_the_inverse_of_the_one_it_makes_on_rows():
    weight, bias = torch.randn(6, 4), torch.randn(6)
    own, next_ = torch.rand(4) + 0.5, torch.rand(6) + 0.5
    scales = {"model.layers.3.gate_up.smoothing_scale": own, "model.layers.3.down.smoothing_scale": next_}
    name = "model.layers.3.mlp.up_proj"
    torch.testing.assert_close(transformed(f"{name}.weight", weight, scales, QWEN2), weight * own / next_.unsqueeze(1))
    torch.testing.assert_close(transformed(f"{name}.bias", bias, scales, QWEN2), bias / next_)
    assert transformed("model.layers.2.mlp.up_proj.weight", weight, scales, QWEN2) is weight


def test_bfloat16_norm_and_weights_use_the_same_scale():
    norm, scale = torch.randn(256).bfloat16(), torch.rand(256) * 20 + 0.1
    norm[0] = 0
    kept = diagonal.representable(scale, norm)
    folded = diagonal.fold_into_norm(norm, kept)
    torch.testing.assert_close(folded.float() * kept, norm.float(), rtol=1e-6, atol=0)
    assert kept[0] == scale[0]
    torch.testing.assert_close(kept, scale, rtol=2**-7, atol=0)


def test_applying_and_inverting_a_scale_is_the_identity():
    weight, scale = torch.randn(4, 8), torch.rand(8) + 0.1
    back = diagonal.apply_to_weight(diagonal.apply_to_weight(weight, scale), scale.reciprocal())
    torch.testing.assert_close(back, weight)
    x = torch.randn(32, 8)
    torch.testing.assert_close(diagonal.apply_to_gram(x.T @ x, scale), (x / scale).T @ (x / scale))
