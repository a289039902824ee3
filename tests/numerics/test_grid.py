import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptqflow.numerics.convention import Convention, Grid
from ptqflow.numerics.grid import (
    dequantize,
    dequantize_weight,
    dynamic_scale_and_zero_point,
    fake_quantize,
    fake_quantize_groups,
    group_weight,
    integer_range,
    quantize,
    quotient,
    scale_and_zero_point,
    stored_scale,
)
from torch.utils._python_dispatch import TorchDispatchMode

values = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40)
grids = st.builds(Grid, st.integers(2, 8), st.booleans(), st.sampled_from(get_args(Convention)))


def of_range(x, grid):
    return scale_and_zero_point(x.amin(), x.amax(), grid)


@given(values, grids, st.floats(1e-9, 1))
@settings(deadline=None)
def test_integers_stay_in_range_and_errors_inside_the_grid_are_at_most_half_a_step(numbers, grid, size):
    x = torch.tensor(numbers) * size
    scale, zero_point = of_range(x, grid)
    lowest, highest = integer_range(grid.num_bits, grid.symmetric)
    q = quantize(x, scale, zero_point, grid)
    before = q.clone()
    assert 0 < scale < torch.inf
    assert lowest <= zero_point <= highest
    assert zero_point == zero_point.round()
    assert ((q >= lowest) & (q <= highest) & (q == q.round())).all()
    error = (dequantize(q, scale, zero_point) - x).abs()
    assert torch.equal(q, before)
    inside = (x >= (lowest - zero_point) * scale) & (x <= (highest - zero_point) * scale)
    tied = 2**-6 if grid.symmetric and grid.convention == "compressed-tensors" and grid.num_bits <= 4 else 0.0  # a quotient's
    assert (error <= scale * (0.5 + tied) * (1 + 1e-5) + 1e-5 * x.abs())[inside].all()  # and what float32 loses in x / scale


@given(values, grids, st.floats(1e-9, 1))
@settings(deadline=None)
def test_the_range_is_not_visibly_clipped(numbers, grid, size):
    """But for groups of one sign by AWQ's convention, whose zero point is clamped to the grid."""
    x = torch.tensor(numbers) * size
    x = torch.cat([x, -x[:1] / 7]) if grid.convention == "awq" else x
    scale, zero_point = of_range(x, grid)
    error = (dequantize(quantize(x, scale, zero_point, grid), scale, zero_point) - x).abs() / scale
    lost = 2**-8 * 2**grid.num_bits if not grid.symmetric else 0  # steps, by which rounding the scale narrows the grid
    if grid.symmetric and grid.convention == "compressed-tensors":
        lost = 0.5 + 2**-8 * 2 ** (grid.num_bits - 1)  # as its positive end is half a step beyond the grid
    assert error.max() <= 0.5 + lost + 1e-5 * 2**grid.num_bits


@given(values, grids, st.floats(1e-9, 1))
@settings(deadline=None)
def test_weight_scales_are_numbers_that_bfloat16_and_float16_hold(numbers, grid, size):
    scale, _ = of_range(torch.tensor(numbers) * size, grid)
    assert torch.equal(scale.bfloat16().float(), scale)
    assert torch.equal(scale.half().float(), scale)


@given(st.floats(2.0**-24, 6e4, width=32))
def test_a_stored_scale_is_the_nearest_and_where_tiny_never_below(exact):
    scale = torch.tensor([exact], requires_grad=True)
    stored = stored_scale(scale)
    if exact >= 2**-17:
        assert torch.equal(stored, scale.bfloat16().float())
    else:
        assert 0 <= stored.item() - exact < 2**-24
    assert torch.autograd.grad(stored, scale)[0].item() == 1


@given(values, grids)
@settings(deadline=None)
def test_quantizing_numbers_on_the_grid_changes_nothing(numbers, grid):
    x = torch.tensor(numbers)
    scale, zero_point = of_range(x, grid)
    q = quantize(x, scale, zero_point, grid)
    assert torch.equal(quantize(dequantize(q, scale, zero_point), scale, zero_point, grid), q)


@given(values, grids)
@settings(deadline=None)
def test_zero_is_exactly_representable(numbers, grid):
    x = torch.tensor([*numbers, 0.0])
    scale, zero_point = of_range(x[:-1], grid)
    assert dequantize(quantize(x, scale, zero_point, grid), scale, zero_point)[-1] == 0
    assert fake_quantize(x, grid.num_bits, grid.symmetric)[-1] == 0


@given(grids, st.sampled_from([0.0, 1e-42, 1e-30, 3.0, -3.0]))
@settings(deadline=None)
def test_constant_groups_of_weights_have_a_finite_scale_and_come_back(grid, constant):
    once = fake_quantize_groups(torch.full((2, 16), constant), grid)
    assert torch.isfinite(once).all()
    if grid.convention != "awq" or grid.symmetric or abs(constant) < 1:  # there, a constant group has no width
        lost = abs(constant) * (1 / (2**grid.num_bits - 1) + 2**-8)  # at most half a step, and what rounding the scale moves
        torch.testing.assert_close(once, torch.full((2, 16), constant), rtol=0, atol=lost + 1e-7)


@given(values, st.integers(2, 8), st.booleans())
@settings(deadline=None)
def test_awq_and_flatquant_agree_on_groups_that_hold_zero(numbers, num_bits, symmetric):
    x = torch.tensor([*numbers, 0.0])
    ours, theirs = Grid(num_bits, symmetric, "flatquant"), Grid(num_bits, symmetric, "awq")
    assert of_range(x, ours) == of_range(x, theirs)


@given(values, st.integers(2, 8), st.booleans())
@settings(deadline=None)
def test_activations_stay_in_range_and_lose_at_most_half_a_step(numbers, num_bits, symmetric):
    x = torch.tensor(numbers)
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    step = torch.maximum(-low, high) / (2 ** (num_bits - 1) - 1) if symmetric else (high - low) / (2**num_bits - 1)
    assert ((fake_quantize(x, num_bits, symmetric) - x).abs() <= step / 2 * (1 + 1e-5) + 1e-5 * x.abs().max() + 1e-37).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "make", [lambda low, high, grid: dynamic_scale_and_zero_point(low, high, *grid[:2]), scale_and_zero_point]
)
def test_no_range_is_divided_by_a_number_of_the_host(make, symmetric):
    # beside one CUDA multiplies by a reciprocal, whose scales differ from the CPU's in the last bit
    divisors = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.div.Tensor:
                divisors.append(args[1])
            return func(*args, **(kwargs or {}))

    with Record():
        make(torch.tensor([-1.0]), torch.tensor([2.0]), Grid(4, symmetric))
    assert divisors
    assert all(isinstance(divisor, torch.Tensor) or math.log2(divisor).is_integer() for divisor in divisors)


@given(values, st.sampled_from([7, 7.5, 15, 127, 127.5, 255]))
def test_a_quotient_is_the_nearest_number(numbers, divisor):
    exact = (torch.tensor(numbers, dtype=torch.float64) / divisor).float()
    assert torch.equal(quotient(torch.tensor(numbers), divisor), exact)


def test_activation_scales_are_not_rounded():
    third = torch.tensor(1 / 3)
    assert dynamic_scale_and_zero_point(0 * third, third, 4, True)[0] == third / 7


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("constant", [0.0, 1e-42, 1e-30, 3.0, -3.0])
def test_constant_groups_have_a_finite_scale_and_come_back(constant, symmetric):
    x = torch.full((2, 16), constant)
    once = fake_quantize(x, 4, symmetric)
    assert torch.isfinite(once).all()
    torch.testing.assert_close(once, x, rtol=1e-5, atol=1e-37)


def test_activation_conventions_match_the_reference_implementation():
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)) * 3 + 1
    low, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round(-low / scale)
    expected = scale * (torch.clamp(torch.round(x / scale) + zero, 0, 255) - zero)
    assert torch.equal(fake_quantize(x, 8, symmetric=False), expected)
    scale = x.abs().amax(1, keepdim=True) / 7
    assert torch.equal(fake_quantize(x, 4, symmetric=True), scale * torch.clamp(torch.round(x / scale), -8, 7))


def test_rounding_is_half_to_even():
    one = torch.ones(1)
    assert quantize(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]), one, 0 * one, Grid(8, True)).tolist() == [0, 2, 2, 0, -2]


def test_input_shards_have_scales_of_their_own():
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    x[..., 4:] *= 100
    sharded = fake_quantize(x, 4, False, shards=2)
    assert torch.equal(sharded[..., :4], fake_quantize(x[..., :4], 4, False))
    assert torch.equal(sharded[..., 4:], fake_quantize(x[..., 4:], 4, False))
    with pytest.raises(ValueError, match="3 shards"):
        fake_quantize(x, 4, False, shards=3)


def test_low_precision_input_is_quantized_in_float32_and_cast_once():
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(fake_quantize(x, 8, False), fake_quantize(x.float(), 8, False).bfloat16())


@pytest.mark.parametrize(
    ("strategy", "group_size", "shards", "shape"),
    [
        ("tensor", None, 1, (1, 1, 96)),
        ("tensor", None, 2, (1, 2, 48)),
        ("channel", None, 3, (8, 3, 4)),
        ("group", 2, 3, (8, 6, 2)),
    ],
)
def test_groups_partition_the_weight_and_never_straddle_shards(strategy, group_size, shards, shape):
    groups = group_weight(torch.arange(96.0).reshape(8, 12), strategy, group_size, shards)
    assert groups.shape == shape
    assert sorted(groups.flatten().tolist()) == list(range(96))
    columns = groups % 12 // (12 // shards)
    assert (columns == columns[..., :1]).all()


def test_ragged_groups_are_refused():
    with pytest.raises(ValueError, match="group_size 5"):
        group_weight(torch.zeros(2, 12), "group", 5)


def test_weight_is_dequantized_group_by_group():
    integers, zero_point = torch.tensor([[1, 2, 3, 4]], dtype=torch.uint8), torch.tensor([[1, 3]], dtype=torch.uint8)
    assert dequantize_weight(integers, torch.tensor([[2.0, 10.0]]), zero_point).tolist() == [[0, 2, 0, 10]]
