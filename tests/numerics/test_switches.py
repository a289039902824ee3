"""Each switch against its definition, computed another way."""

import math
from fractions import Fraction
from pathlib import Path
from typing import get_args

import pytest
import torch
from ptqflow.methods.transforms.flatquant_settings import FlatQuantTransform
from ptqflow.numerics import switches
from ptqflow.numerics.inverse import gradient_error
from ptqflow.numerics.switches import KRONECKER, LEARNING, SWITCHES
from ptqflow.recipes import Recipe
from ptqflow.transforms import kronecker

CPU = torch.device("cpu")


def drawn(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def nearest(value: float, bits: int) -> float:
    """The number of `bits` after the leading one that is nearest to `value`, half to even; exponents unbounded."""
    if value == 0 or not math.isfinite(value):
        return value
    unit = Fraction(2) ** (math.frexp(value)[1] - 1 - bits)
    return float(round(Fraction(value) / unit) * unit)  # round() of a Fraction is half to even


def cut(value: float, bits: int) -> float:
    unit = Fraction(2) ** (math.frexp(value)[1] - 1 - bits)
    return float(math.trunc(Fraction(value) / unit) * unit)


def options(field):
    return {option for part in get_args(field.annotation) for option in get_args(part)}


def test_the_table_names_all_and_recipes_can_ask_for_those_that_act():
    assert [*SWITCHES] == [f"E{i}" for i in range(12)]
    acting = {kind: {name for name, s in SWITCHES.items() if s.acts == kind} for kind in ("learning", "serving")}
    assert acting["learning"] == {*LEARNING} == options(FlatQuantTransform.model_fields["emulate"])
    assert acting["serving"] == options(Recipe.model_fields["emulate"])
    assert {*KRONECKER} < acting["serving"]


@pytest.mark.parametrize(("name", "error"), [("E0", (0.99, 1.01)), ("E1", (0, 1e-3)), ("E2", (0, 1e-3))])
def test_inverses_are_inverses_and_only_e0_loses_the_gradient(name, error):
    matrix = torch.eye(6) + drawn(6, 6, scale=0.1)
    invert = LEARNING[name].invert
    torch.testing.assert_close(invert(matrix), torch.linalg.inv(matrix.double()).float())
    assert error[0] <= gradient_error(invert, CPU) <= error[1]


def test_e1_and_e2_know_no_more_than_float32():
    matrix = (torch.eye(8) + drawn(8, 8, scale=0.3)).double()
    for name in ("E1", "E2"):
        found = LEARNING[name].invert(matrix)
        assert torch.equal(found, torch.linalg.inv(matrix.float()).double())
        assert not torch.equal(found, torch.linalg.inv(matrix))
    assert LEARNING["E1"].wide == torch.float32
    assert LEARNING["E2"].wide == torch.float64


def test_e3_keeps_eleven_bits_of_mantissa_half_to_even():
    x = torch.cat([drawn(500), drawn(500, seed=1, scale=1e30), drawn(100, seed=2, scale=1e-30), torch.tensor([0.0, 1.0, -2.0])])
    half = torch.tensor([1 + 2.0**-12, 1 + 3 * 2.0**-12, -(1 + 2.0**-12)])  # halves: to 1, to 1 + 2 units, to -1
    x = torch.cat([x, half])
    assert switches.hf32(x).tolist() == [nearest(value, 11) for value in x.tolist()]
    assert switches.hf32(half).tolist() == [1.0, 1 + 2 * 2.0**-11, -1.0]
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan])
    assert torch.equal(switches.hf32(odd)[:2], odd[:2])
    assert switches.hf32(odd)[2].isnan()


@pytest.mark.parametrize(("name", "expected"), [("E3", switches.hf32_product), ("E9", switches.blocked_product)])
def test_products_are_switched_forward_and_backward_and_nothing_else_is(name, expected):
    x, weight, bias, seen = drawn(3, 5, 300), drawn(7, 300, seed=1), drawn(7, seed=2), drawn(3, 5, 7, seed=3)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    with LEARNING[name].products():
        out = torch.nn.functional.linear(*leaves)
        out.backward(seen)
    rows = x.flatten(0, 1)
    torch.testing.assert_close(out.detach().flatten(0, 1), expected(rows, weight.T) + bias, rtol=0, atol=0)
    torch.testing.assert_close(leaves[0].grad.flatten(0, 1), expected(seen.flatten(0, 1), weight), rtol=0, atol=0)
    torch.testing.assert_close(leaves[1].grad, expected(seen.flatten(0, 1).T, rows), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(leaves[2].grad, seen.sum((0, 1)))
    plain = torch.nn.functional.linear(x, weight, bias)
    assert not torch.equal(plain, out.detach())
    with LEARNING[name].products():
        batch = x @ weight.T.expand(3, 300, 7)
        exact = x.double() @ weight.T.double()
    torch.testing.assert_close(batch, expected(x, weight.T.expand(3, 300, 7)), rtol=0, atol=0)
    assert torch.equal(exact, x.double() @ weight.T.double())  # float64 products are not of this switch
    assert torch.equal(torch.nn.functional.linear(x, weight, bias), plain)  # and after it all is as before


def test_e3_is_of_the_size_of_eleven_bits_and_e9_of_float32():
    x, weight = drawn(64, 512), drawn(512, 64, seed=1)
    exact = x.double() @ weight.double()

    def error(found):
        return ((found - exact).norm() / exact.norm()).item()

    assert 2.0**-14 < error(switches.hf32_product(x, weight)) < 2.0**-11
    assert error(switches.blocked_product(x, weight)) < 2.0**-20


def test_e4_saturates_where_float16_overflows_and_e7_overflows():
    x = torch.tensor([1e5, -1e6, torch.inf, -torch.inf, torch.nan, 65504.0, 1.0005, 3e-8])
    saturated, plain = switches.saturating_float16(x), switches.through_float16(x)
    assert saturated.tolist() == [65504.0, -65504.0, 65504.0, -65504.0, 0.0, 65504.0, nearest(1.0005, 10), x[-1].half().item()]
    assert plain[:4].tolist() == [torch.inf, -torch.inf, torch.inf, -torch.inf]
    assert plain[4].isnan()
    assert torch.equal(plain[5:], saturated[5:])


def test_e7_rounds_the_first_product_to_bfloat16_and_the_second_to_float16():
    x, left, right = drawn(4, 6, scale=30), drawn(1, 2, 2, seed=1), drawn(1, 3, 3, seed=2)
    found = kronecker.apply(x, left, right, KRONECKER["E7"])
    first = (x.view(4, 2, 3) @ right[0]).bfloat16().float()
    expected = (left[0].T @ first).half().float().flatten(1)
    assert torch.equal(found, expected)
    assert not torch.equal(found, kronecker.apply(x, left, right))
    large = kronecker.apply(1e5 * x, left, right, KRONECKER["E7"])
    assert not large.isfinite().all()
    assert kronecker.apply(1e5 * x, left, right, KRONECKER["E4"]).abs().max() == 65504.0


def test_e5_cuts_a_scale_to_nineteen_bits():
    scale = drawn(300).abs() * 1e-3
    found = switches.scale_of_19_bits(scale)
    assert found.tolist() == [cut(value, 10) for value in scale.tolist()]
    assert (found <= scale).all()
    assert (found >= scale * (1 - 2.0**-10)).all()


def test_e6_and_e10_round_to_bfloat16():
    scale, zero_point = drawn(8, 1).abs() * 1e-2, torch.full((8, 1), 7.0)
    assert switches.bfloat16_scale(scale).flatten().tolist() == [nearest(value, 7) for value in scale.flatten().tolist()]
    integers = torch.arange(16.0).repeat(8, 1)
    exact = ((integers.double() - zero_point) * scale.double()).float()
    found = switches.bfloat16_weight(integers, zero_point, scale)
    assert found.flatten().tolist() == [nearest(value, 7) for value in exact.flatten().tolist()]


def test_e9_sums_block_after_block():
    x, weight = drawn(3, 300, seed=4), drawn(300, 5, seed=5)
    expected = x[:, :128] @ weight[:128]
    expected = expected + x[:, 128:256] @ weight[128:256]
    expected = expected + x[:, 256:] @ weight[256:]
    assert torch.equal(switches.blocked_product(x, weight), expected)


def test_e11_reads_quantized_keys_and_values_only_to_decode():
    assert not switches.reads_quantized_cache(7, 7)
    assert not switches.reads_quantized_cache(1, 1)
    assert switches.reads_quantized_cache(1, 8)


def test_e8_rounds_after_the_sum_after_the_norm_and_after_gamma():
    total, gamma = drawn(3, 16), drawn(16, seed=1)
    found = switches.add_rms_norm(total, gamma, 1e-6)
    for row, out in zip(total, found, strict=True):
        held = [nearest(value, 7) for value in row.tolist()]
        rms = math.sqrt(sum(value * value for value in held) / 16 + 1e-6)
        normed = [nearest(value / rms, 7) for value in held]
        expected = [nearest(a * nearest(g, 7), 7) for a, g in zip(normed, gamma.tolist(), strict=True)]
        assert out.tolist() == pytest.approx(expected, rel=2.0**-7)  # 1/rms is float32's: a half may fall on the other side
        assert sum(a == b for a, b in zip(out.tolist(), expected, strict=True)) >= 15


def test_the_documents_say_of_every_switch_where_it_acts():
    text = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `E")]
    assert {row[0].strip("`"): row[2] for row in rows} == {name: switch.acts for name, switch in SWITCHES.items()}
