"""Integer linears are their definitions: the fake quantizer's inputs times the dequantized weight, to float32 rounding."""

import pytest
import torch
from ptqflow.devices.weight_only import Int4Weight, Int8Weight
from ptqflow.errors import ConfigError
from ptqflow.modeling.input_scheme import InputQuantizer, InputScheme
from ptqflow.modeling.integer_linear import IntegerLinear, WeightOnlyLinear
from ptqflow.numerics.convention import Grid
from ptqflow.numerics.grid import fake_quantize
from ptqflow.numerics.straight_through import fake_quantize_clipped

CPU = torch.device("cpu")


def random_int8(*shape, seed=0):
    return torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


def definition(x, scheme, integers, scale, bias):
    """The fake quantizer's inputs times the dequantized weight, in float64."""
    rows = x
    if scheme.left is not None:
        rows = (x.double() @ torch.kron(scheme.left.double(), scheme.right.double())).float()
    if scheme.scale is not None:
        zero = 0 if scheme.zero_point is None else scheme.zero_point
        rows = ((rows / scheme.scale).round() + zero).clamp(-128, 127).sub(zero) * scheme.scale
    elif scheme.clip == 1:
        rows = fake_quantize(rows, *scheme.grid[:2])
    else:
        rows = fake_quantize_clipped(rows, *scheme.grid[:2], torch.full((1, 2), scheme.clip))
    weight = integers.double() * scale.double().repeat_interleave(integers.shape[1] // scale.shape[1], 1)
    return rows.double() @ weight.T + bias.double()


TURNS = {
    side: torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(n)))[0]
    for side, n in (("left", 8), ("right", 16))
}
SCHEMES = {
    "symmetric": InputScheme(Grid(8, True)),
    "asymmetric": InputScheme(Grid(8, False)),
    "static": InputScheme(Grid(8, True), torch.tensor([0.02])),
    "static-shifted": InputScheme(Grid(8, True), torch.tensor([0.02]), torch.tensor([5.0])),
    "4 bits": InputScheme(Grid(4, True)),
    "4 bits, asymmetric": InputScheme(Grid(4, False)),
    "4 bits, transformed": InputScheme(Grid(4, True), clip=0.9, **TURNS),
}


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("name", SCHEMES)
def test_an_integer_linear_is_its_definition(name, groups):
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(3, 5, 128, generator=generator), random_int8(32, 128)
    x[0, 0], x[0, 1] = 0, x[0, 1].abs() + 1
    scale, bias = torch.rand(32, groups, generator=generator) / 100, torch.randn(32)
    linear = IntegerLinear(weight, scale, bias, InputQuantizer(SCHEMES[name]))
    torch.testing.assert_close(linear(x).double(), definition(x, SCHEMES[name], weight, scale, bias), rtol=1e-5, atol=1e-4)


def test_linears_that_share_an_input_quantize_it_once_and_hold_it_no_longer(monkeypatch):
    asked = []
    quantized = InputScheme.quantized
    monkeypatch.setattr(InputScheme, "quantized", lambda self, rows: asked.append(1) or quantized(self, rows))
    shared = InputQuantizer(SCHEMES["symmetric"])
    linears = [IntegerLinear(random_int8(4, 8, seed=i), torch.ones(4, 1), None, shared) for i in range(3)]
    x = torch.randn(2, 8)
    alone = [IntegerLinear(linear.weight[0], torch.ones(4, 1), None, InputQuantizer(shared.scheme))(x) for linear in linears]
    asked.clear()
    assert all(torch.equal(linear(x), expected) for linear, expected in zip(linears, alone, strict=True))
    assert len(asked) == 1
    linears[0](x.clone())
    assert len(asked) == 2
    linears[0](x)
    del x
    assert shared._last is None


def test_static_inputs_are_on_the_signed_grid():
    with pytest.raises(ValueError, match="on the signed grid"):
        InputScheme(Grid(8, False), torch.ones(1))


def test_an_8_bit_weight_is_its_definition():
    x, q, scale = torch.randn(2, 7, 96), random_int8(24, 96), torch.rand(24) / 100
    found = WeightOnlyLinear(Int8Weight(q, scale, torch.float32, CPU), None)(x)
    torch.testing.assert_close(found.double(), x.double() @ (q.double() * scale.double()[:, None]).T, rtol=1e-5, atol=1e-5)


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
    found = WeightOnlyLinear(Int4Weight(q, scale, zero, torch.float32, CPU), bias)(x)
    repeat = 256 // groups
    weight = (q.double() - zero.double().repeat_interleave(repeat, 1)) * scale.double().repeat_interleave(repeat, 1)
    torch.testing.assert_close(found.double(), x.double() @ weight.T + bias.double(), rtol=1e-5, atol=1e-4)


def test_a_weight_without_a_packed_kernel_is_refused():
    q, scale = torch.zeros(16, 96, dtype=torch.uint8), torch.ones(16, 4)
    with pytest.raises(ConfigError, match=r"groups of 24; groups must be multiples of 32"):
        Int4Weight(q, scale, torch.full((16, 4), 8, dtype=torch.uint8), torch.float32, CPU)
