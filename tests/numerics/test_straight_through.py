from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ptqflow.numerics.convention import Convention, Grid
from ptqflow.numerics.grid import fake_quantize
from ptqflow.numerics.straight_through import clamp_rows, fake_quantize_clipped, quantize_dequantize


@given(st.integers(2, 8), st.booleans(), st.sampled_from([1, 2, 4]), st.integers(0, 10**6))
def test_ratios_of_one_or_none_give_the_plain_grid_bit_for_bit(bits, symmetric, shards, seed):
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(seed))
    x[0] = 0
    for clip in (torch.ones(shards, 2), None):
        assert torch.equal(fake_quantize_clipped(x, bits, symmetric, clip, shards), fake_quantize(x, bits, symmetric, shards))


@pytest.mark.parametrize("symmetric", [True, False])
def test_each_shard_is_clipped_at_each_end_by_its_own_ratio(symmetric):
    x = torch.randn(7, 3, 15, generator=torch.Generator().manual_seed(0))
    clip = torch.tensor([[0.5, 0.9], [0.8, 0.3], [1.0, 0.6]])
    parts = []
    for part, (below, above) in zip(x.double().split(5, -1), clip.double(), strict=True):
        low, high = part.amin(-1, keepdim=True).clamp(max=0) * below, part.amax(-1, keepdim=True).clamp(min=0) * above
        scale = torch.maximum(-low, high) / 7 if symmetric else (high - low) / 15
        zero_point = 0 if symmetric else (-low / scale).round()
        integers = ((part / scale).round() + zero_point).clamp(*((-8, 7) if symmetric else (0, 15)))
        parts.append((integers - zero_point) * scale)
    found = fake_quantize_clipped(x, 4, symmetric, clip, 3).double()
    torch.testing.assert_close(found, torch.cat(parts, -1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients_are_those_of_straight_through_rounding(symmetric):
    torch.manual_seed(0)
    x, scale = torch.randn(5, 8, requires_grad=True), (torch.rand(5, 1) * 0.2 + 0.1).requires_grad_()
    zero_point = torch.full((5, 1), 0.0 if symmetric else 6.0)
    lowest, highest = (-8, 7) if symmetric else (0, 15)

    def by_autograd(x, scale):
        ratio = x / scale
        return ((ratio + (torch.round(ratio) - ratio).detach() + zero_point).clamp(lowest, highest) - zero_point) * scale

    target = torch.randn(5, 8)
    ours = torch.autograd.grad(((quantize_dequantize(x, scale, zero_point, Grid(4, symmetric)) - target) ** 2).sum(), (x, scale))
    theirs = torch.autograd.grad(((by_autograd(x, scale) - target) ** 2).sum(), (x, scale))
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("convention", get_args(Convention))
@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients_are_of_the_integers_that_the_forward_pass_has(symmetric, convention):
    """Of weights as stored, some of which lie half-way between two integers but for the rounding of a scale or of a sum."""
    torch.manual_seed(0)
    x = torch.randn(300, 32).bfloat16().float().requires_grad_()
    scale = (x.detach().abs().amax(1, keepdim=True) / 7.5).bfloat16().float().requires_grad_()
    zero_point = torch.full((300, 1), 0.0 if symmetric else 7.0)
    lowest, highest = (-8, 7) if symmetric else (0, 15)

    def rounded(ratio):
        if convention != "compressed-tensors":
            return torch.round(ratio) + zero_point
        return torch.round(ratio.bfloat16()).float() if symmetric else torch.round(ratio + (zero_point - 8)) + 8

    def by_autograd(x, scale):
        exact, near = x.double() / scale.double() + zero_point, 1e-9  # of an end, which float64 may miss
        integers = exact + (rounded(x / scale) - exact).detach()
        return (integers.clamp(lowest - near, highest + near) - zero_point) * scale.double()

    weights, grid = torch.randn(300, 32), Grid(4, symmetric, convention)
    ours = torch.autograd.grad((quantize_dequantize(x, scale, zero_point, grid) * weights).sum(), (x, scale))
    theirs = torch.autograd.grad((by_autograd(x, scale) * weights).sum(), (x, scale))
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected)


def test_clip_ratios_learn_from_the_error_of_outliers():
    x = torch.randn(64, 32)
    x[:, 0] = 8.0
    clip = torch.tensor([[0.98, 0.98]], requires_grad=True)
    (fake_quantize_clipped(x, 4, False, clip)[:, 1:] - x[:, 1:]).square().sum().backward()
    assert clip.grad[0, 1] > 0  # a smaller range would round the others better


def test_rows_are_clamped_with_torchs_gradients():
    x, ends = torch.randn(7, 3, 16, generator=torch.Generator().manual_seed(0)), (-torch.rand(7, 3, 1), torch.rand(7, 3, 1))
    inputs = [t.requires_grad_() for t in (x, *ends)]
    weights = torch.randn(7, 3, 16)
    assert torch.equal(clamp_rows(*inputs), torch.clamp(*inputs))
    ours, theirs = (torch.autograd.grad((clamp(*inputs) * weights).sum(), inputs) for clamp in (clamp_rows, torch.clamp))
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected)
