"""Traps of docs/traps.md that no other test file has a place for."""

import re

import pytest
import torch
from checkout import REPOSITORY
from ptqflow.devices.device import select
from ptqflow.errors import ConfigError
from ptqflow.methods.block import BlockInputs, BlockRounder
from ptqflow.methods.scaling import SiteInputs
from ptqflow.methods.transforms import awq
from ptqflow.modeling.anatomy import SITES, smoothing_key
from ptqflow.modeling.blocks import Blocks, forward, watch_sites
from ptqflow.modeling.dimensions import head_dim, linear_shapes
from ptqflow.modeling.shapes import kronecker_sides
from ptqflow.numerics.convention import Grid
from ptqflow.numerics.grid import dequantize, fake_quantize_groups, quantize, scale_and_zero_point
from ptqflow.presets import resolve
from ptqflow.transforms import diagonal
from tiny_models import QWEN2, tiny_model
from tiny_models import quantize as quantize_model


def test_every_named_test_exists():
    """docs/traps.md names tests as `file::test`."""
    named = re.findall(r"`(test_\w+)::(test_\w+)`", (REPOSITORY / "docs/traps.md").read_text())
    assert len(named) > 30
    for module, test in named:
        source = next((REPOSITORY / "tests").glob(f"*/{module}.py")).read_text()
        assert f"def {test}(" in source, f"{module}::{test}"


@pytest.mark.parametrize(
    "platform", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu), pytest.param("ascend", marks=pytest.mark.gpu)]
)
def test_float32_products_are_float32_even_where_speed_was_asked_for(platform):
    try:
        device = select(platform)
    except ConfigError as error:
        pytest.skip(str(error))
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).to(device.torch_device)
    exact = x.cpu().double() @ x.cpu().double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with device.true_float32():
            found = (x @ x).cpu().double()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert ((found - exact).norm() / exact.norm()).item() < 1e-6  # TF32 and HF32 lose 1e-4


def test_each_sites_search_sees_the_other_sites_unscaled(tmp_path):
    blocks = Blocks(tiny_model(tmp_path / "m", layers=1), torch.device("cpu"), torch.float32)
    tensors, seen = blocks.tensors(0), {}
    with watch_sites(block := blocks.build(0, tensors), lambda site, x: seen.update({site: x.flatten(0, 1)})):
        forward(block, torch.randn(4, 32, 128), blocks.positions(32))
    means, peaks = ({s: f(x.abs()) for s, x in seen.items()} for f in (lambda x: x.mean(0), lambda x: x.amax(0)))
    grams = {s: x.T @ x for s, x in seen.items()}
    recipe = resolve({"preset": "awq-w4a16"})
    inputs = BlockInputs(grams, 128, means, peaks, head_dim(blocks.config.to_dict()), 2)
    rounder = BlockRounder(QWEN2, 0, tensors, inputs, recipe, select("cpu"))
    rounder.round_all()
    qparams = rounder.qparams
    for site in (site for site in SITES if site.name != "o"):
        weights = [tensors[f"{QWEN2.linear_prefix(0, linear)}.weight"] for linear in site.linears]
        args = [recipe.weights(0, linear) for linear in site.linears]
        alone = SiteInputs(means[site.name], peaks[site.name], weights, args, grams[site.name], lambda v, how: v)
        assert torch.equal(qparams[smoothing_key(0, site.name)], awq.smoothing_scale(alone, recipe.transform))


def test_a_dead_channel_of_a_norm_stays_dead_and_finite():
    scale, norm = torch.tensor([1e-5, 2.0, 1e5]), torch.tensor([0.0, 1.0, 1e-3]).bfloat16()
    held = diagonal.representable(scale, norm)
    folded = diagonal.fold_into_norm(norm, held)
    assert torch.isfinite(held).all()
    assert torch.isfinite(folded).all()
    assert folded[0] == 0


def test_a_scale_beyond_the_norms_dtype_is_held_at_its_last_number():
    scale, norm = torch.tensor([1e-5, 1e8, 1e-5]), torch.tensor([1.5, -0.1, 0.0]).half()  # 1.5e5, -1e-9: float16 has neither
    held = diagonal.representable(scale, norm)
    folded = diagonal.fold_into_norm(norm, held)
    assert folded.tolist() == [65504, -torch.finfo(torch.float16).smallest_normal, 0]
    torch.testing.assert_close(folded.float() * held, norm.float(), rtol=1e-6, atol=0)


def test_a_shrunken_symmetric_range_has_one_integer_more_below_zero():
    grid = Grid(4, True)
    scale, zero_point = scale_and_zero_point(torch.tensor(-7.0), torch.tensor(7.0), grid)
    ends = dequantize(quantize(torch.tensor([-100.0, 100.0]), scale, zero_point, grid), scale, zero_point)
    assert ends.tolist() == [-8, 7]


def test_rounding_a_fake_checkpoint_again_does_not_return_its_integers(tmp_path):
    """So every form is derived from integers and scales, never one form from another."""
    grid, weight = Grid(8, False), torch.randn(64, 128, generator=torch.Generator().manual_seed(0))

    def integers(w):
        scale, zero_point = scale_and_zero_point(w.amin(1, keepdim=True), w.amax(1, keepdim=True), grid)
        return quantize(w, scale, zero_point, grid)

    fake = fake_quantize_groups(weight, grid).bfloat16()
    assert not torch.equal(integers(fake), integers(weight))


def test_heads_need_not_divide_the_hidden_size():
    config = {"model_type": "qwen3", "hidden_size": 5120, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128}
    config |= {"intermediate_size": 25600}
    shapes = linear_shapes(config)
    assert (shapes["q_proj"], shapes["k_proj"], shapes["o_proj"]) == ((8192, 5120), (1024, 5120), (5120, 8192))
    assert kronecker_sides("o", 8192, head_dim(config), 1) == (64, 128)


def test_a_chunk_of_one_block_propagates_nothing(model, work):
    """So as many chunks as blocks equal error_propagation false, bit for bit (GPTQ propagates inside a block, too)."""
    from safetensors.torch import load_file
    from tiny_models import collect

    calibration, found = collect(model, work, chunks=3), []
    for propagate in (True, False):
        recipe = resolve({"preset": "awq-w4a16", "error_propagation": propagate})
        paths = quantize_model(model, calibration, recipe, work / f"single-{propagate}", chunks=3)
        found.append({name: t for path in paths for name, t in load_file(path).items()})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
