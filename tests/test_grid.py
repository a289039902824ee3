import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptqflow.numerics.grid import (
    dequantize,
    dequantize_weight,
    fake_quantize,
    group_weight,
    integer_range,
    quantize,
    scale_and_zero_point,
    stored_scale,
)
from ptqflow.numerics.observers import min_max

bits = st.integers(2, 8)
values = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40)


def grid(x, num_bits, symmetric, floor=1e-5):
    low, high = min_max(x.reshape(1, 1, -1))
    return scale_and_zero_point(low, high, num_bits, symmetric, floor)


@given(values, bits, st.booleans(), st.sampled_from([1e-5, None]))
@settings(deadline=None)
def test_integers_stay_in_range_and_error_is_at_most_half_a_step(numbers, num_bits, symmetric, floor):
    x = torch.tensor(numbers)
    scale, zero_point = grid(x, num_bits, symmetric, floor)
    lowest, highest = integer_range(num_bits, symmetric)
    q = quantize(x, scale, zero_point, num_bits, symmetric)
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()
    assert lowest <= zero_point.item() <= highest
    assert ((q >= lowest) & (q <= highest) & (q == q.round())).all()
    slack = 1e-5 * x.abs().max()  # float32 rounding of x / scale
    if floor is not None and not symmetric:  # the ends of the range, by which a scale was rounded down
        slack += 2**-8 * (2**num_bits - 1) * scale.item()
    assert ((dequantize(q, scale, zero_point) - x).abs() <= scale / 2 * (1 + 1e-5) + slack).all()
    scale, zero_point = scale.flatten(), zero_point.flatten()
    inside = (x >= (lowest - zero_point) * scale) & (x <= (highest - zero_point) * scale)
    error = (dequantize(q.flatten(), scale, zero_point) - x).abs()
    assert (error <= scale / 2 * (1 + 1e-5) + 1e-5 * x.abs())[inside].all()


@given(values, bits, st.booleans(), st.floats(1e-9, 1))
@settings(deadline=None)
def test_weight_scales_are_numbers_that_bfloat16_and_float16_hold(numbers, num_bits, symmetric, size):
    scale, _ = grid(torch.tensor(numbers) * size, num_bits, symmetric)
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


def test_activation_scales_are_not_rounded():
    assert grid(torch.tensor([1.0]), 4, True, None)[0].item() == torch.tensor(1 / 7).item()


@given(values, bits, st.booleans())
@settings(deadline=None)
def test_quantizing_numbers_on_the_grid_changes_nothing(numbers, num_bits, symmetric):
    x = torch.tensor(numbers)
    scale, zero_point = grid(x, num_bits, symmetric)
    q = quantize(x, scale, zero_point, num_bits, symmetric)
    assert torch.equal(quantize(dequantize(q, scale, zero_point), scale, zero_point, num_bits, symmetric), q)


@given(values, bits, st.booleans())
@settings(deadline=None)
def test_zero_is_exactly_representable(numbers, num_bits, symmetric):
    x = torch.tensor([*numbers, 0.0])
    assert fake_quantize(x, num_bits, symmetric)[-1] == 0


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
    assert quantize(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]), one, 0 * one, 8, True).tolist() == [0, 2, 2, 0, -2]


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
