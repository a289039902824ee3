"""Integer linears are their definitions: the fake quantizer's inputs times the dequantized weight, to float32 rounding."""

import pytest
import torch
from ptqflow.devices import weight_only
from ptqflow.devices.products import Kernel
from ptqflow.devices.weight_only import TINYGEMM_ROWS, TINYGEMM_ROWS_BY_STEPS, Int4Weight, Int8Weight, TinygemmWeight
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
    assert shared._once._last is None


def test_static_inputs_are_on_the_signed_grid():
    with pytest.raises(ValueError, match="on the signed grid"):
        InputScheme(Grid(8, False), torch.ones(1))


def test_an_8_bit_weight_is_its_definition():
    x, q, scale = torch.randn(2, 7, 96), random_int8(24, 96), torch.rand(24) / 100
    found = WeightOnlyLinear(Int8Weight(q, scale, torch.float32, CPU), None)(x)
    torch.testing.assert_close(found.double(), x.double() @ (q.double() * scale.double()[:, None]).T, rtol=1e-5, atol=1e-5)


def packed_case(out, columns, groups, symmetric=False):
    """Integers, scales and zero points of a 4-bit weight, and the weight they define, in float64."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(0, 16, (out, columns), generator=generator, dtype=torch.uint8)
    scale = torch.rand(out, groups, generator=generator) / 10
    zero = torch.randint(0, 16, (out, groups), generator=generator, dtype=torch.uint8)
    if symmetric:
        zero.fill_(8)
    repeat = columns // groups
    difference = q.double() - zero.double().repeat_interleave(repeat, 1)
    return q, scale, zero, difference * scale.double().repeat_interleave(repeat, 1)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("out", "columns", "groups"), [(48, 256, 1), (48, 256, 8), (7, 96, 4), (5, 45, 3), (3, 11, 1)])
def test_a_4_bit_weight_is_its_definition_of_any_shape(out, columns, groups, symmetric, monkeypatch):
    monkeypatch.setattr(weight_only, "_AT_ONCE", 5 * columns)  # in parts, the last a smaller one
    q, scale, zero, weight = packed_case(out, columns, groups, symmetric)
    held, bias = Int4Weight(q, scale, zero, CPU), torch.randn(out)
    assert torch.equal(held.weight(slice(None), torch.float32), weight.float())
    assert held.nbytes == out * -(-columns // 2) + 5 * scale.numel()
    for rows in ((2, 7), (1, 1), (0, 3), (600,)):
        x = torch.randn(*rows, columns)
        found = WeightOnlyLinear(held, bias)(x)
        torch.testing.assert_close(found.double(), x.double() @ weight.T + bias.double(), rtol=1e-5, atol=1e-4)


def test_a_4_bit_weight_is_rounded_once_where_the_model_computes_in_bfloat16():
    q, scale, zero, weight = packed_case(32, 64, 2)
    assert torch.equal(Int4Weight(q, scale, zero, CPU).weight(slice(None), torch.bfloat16), weight.float().bfloat16())


def test_4_bit_weights_that_a_device_has_no_packed_kernel_for_are_unpacked():
    takes, bf16 = TinygemmWeight.takes, torch.bfloat16
    assert takes(48, 256, 2, bf16)
    for other in ((48, 256, 2, torch.float32), (40, 256, 2, bf16), (48, 96, 1, bf16), (48, 256, 16, bf16)):
        assert not takes(*other)
    assert not weight_only._packs(CPU)
    q, scale, zero, _ = packed_case(40, 100, 1)
    assert weight_only.int4_weight(q, scale, zero, torch.bfloat16, CPU).kernel == Int4Weight.kernel


def tinygemm_packed(q):
    """torch's packing for GPUs, lane by lane as its kernel does it (ATen/native/cuda/int4mm.cu, 8 inner tiles)."""
    out, columns = q.shape
    packed = torch.zeros(out // 8, columns // 128, 32, 4, dtype=torch.int64)
    for tile, outer, t, inner in torch.cartesian_prod(*(torch.arange(n) for n in packed.shape)).tolist():
        base = (outer * 8 + 2 * inner) * 16 + t % 4 * 2
        v = [int(q[tile * 8 + t // 4, base + k]) for k in (0, 1, 8, 9, 16, 17, 24, 25)]
        word = v[7] << 28 | v[5] << 24 | v[3] << 20 | v[1] << 16 | v[6] << 12 | v[4] << 8 | v[2] << 4 | v[0]
        packed[tile, outer, t, inner] = word - 2**32 * (word >= 2**31)
    return packed.to(torch.int32)


@pytest.mark.parametrize(("unpacks", "limit"), [(True, TINYGEMM_ROWS), (True, TINYGEMM_ROWS_BY_STEPS), (False, TINYGEMM_ROWS)])
def test_on_a_gpu_many_rows_are_multiplied_by_the_unpacked_weight(unpacks, limit, monkeypatch):
    """By the layout that torch's source tells; a device that packs otherwise is left to the packed kernel."""
    q, scale, zero, _ = packed_case(16, 256, 2)
    scale = scale.bfloat16().float()
    monkeypatch.setattr(weight_only, "_tinygemm_packed", lambda q: tinygemm_packed(q if unpacks else q.flip(1)))
    if limit == TINYGEMM_ROWS:
        monkeypatch.setattr(weight_only, "_unpacking", lambda *_: Kernel("unpacked by a kernel", weight_only._unpacked))
    weight_only._unpacks.cache_clear()
    try:
        held = TinygemmWeight(q, scale, zero, torch.bfloat16, CPU)
    finally:
        weight_only._unpacks.cache_clear()
    asked = []
    monkeypatch.setattr(torch.ops.aten, "_weight_int4pack_mm", lambda x, *_: asked.append(len(x)) or x[:, :16], raising=False)
    for rows in (0, 1, limit - 1, limit, limit + 3):
        x = torch.randn(rows, 256).bfloat16()
        found = held.multiply(x)
        if rows >= limit and unpacks:
            assert torch.equal(found, x @ held.weight().T)
    few = [0, 1, limit - 1]
    assert asked == (few if unpacks else [*few, limit, limit + 3])
    assert (f"of {limit} rows and more, unpacked" in held.kernel) == unpacks
    if unpacks:  # as the packed kernel dequantizes: q - 8, times the scale, plus the offset rounded to bfloat16
        offset = ((8 - zero.double()) * scale.double()).float().bfloat16().double().repeat_interleave(128, 1)
        expected = (q.double() - 8) * scale.double().repeat_interleave(128, 1) + offset
        assert torch.equal(held.weight(), expected.float().bfloat16())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch's packed kernel is for GPUs")
@pytest.mark.parametrize("rows", [1, TINYGEMM_ROWS - 1, TINYGEMM_ROWS])
def test_on_a_gpu_both_ways_are_within_one_rounding(rows):
    q, scale, zero, weight = packed_case(256, 512, 4)
    held = TinygemmWeight(q, scale, zero, torch.bfloat16, torch.device("cuda", 0))
    assert held.unpacking
    x = torch.randn(rows, 512, device="cuda").bfloat16()
    exact, rounded = x.double().cpu() @ weight.T, x.double().cpu().abs() @ weight.abs().T * 2**-7
    assert ((held.multiply(x).double().cpu() - exact).abs() <= rounded + 2**-8 * exact.abs()).all()
