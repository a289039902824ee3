"""An NPU's operators, by their reference kernels on this CPU, compute what other devices do: one rounding of bfloat16 apart.

The reference kernels are what CANN documents (`npu_kernels.py`); schemas and Meta kernels are asked in `make check-devices`.
"""

import npu_kernels
import pytest
import torch
from ptqflow.devices import npu, products, weight_only
from ptqflow.devices.case import Case
from ptqflow.modeling.input_scheme import InputQuantizer, InputScheme
from ptqflow.modeling.integer_linear import FusedLinear, IntegerLinear, integer_linear
from ptqflow.numerics.convention import Grid

CPU, BF16 = torch.device("cpu"), torch.bfloat16
ROUNDING = {"rtol": 2**-7, "atol": 1e-3}


@pytest.fixture(scope="module", autouse=True)
def operators():
    return npu_kernels.register()


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def integers(bits, *shape, seed=0):
    low = -(2 ** (bits - 1))
    return torch.randint(low, -low, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


TURNS = {side: torch.linalg.qr(numbers(n, n, seed=n))[0] for side, n in (("left", 8), ("right", 16))}
FUSED = {
    "W8A8": (8, InputScheme(Grid(8, True))),
    "W4A8": (4, InputScheme(Grid(8, True))),
    "W8A8 static": (8, InputScheme(Grid(8, True), torch.tensor([0.03]))),
    "W4A4": (4, InputScheme(Grid(4, True))),
    "W4A4 FlatQuant": (4, InputScheme(Grid(4, True), clip=0.9, **TURNS)),
}


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("name", FUSED)
def test_fused_linears_are_what_exact_products_give(name, biased, monkeypatch):
    bits, scheme = FUSED[name]
    weight, scale = integers(bits, 32, 128), numbers(32, 1, seed=1).abs() / 100
    bias = numbers(32, seed=2) if biased else None
    x = numbers(3, 5, 128, seed=3).to(BF16)
    exact = IntegerLinear(weight, scale, bias, InputQuantizer(scheme))
    monkeypatch.setattr(products, "FUSED", {"cpu": npu.Fused()})
    found = integer_linear(weight, scale, bias, scheme, bits, BF16, [])
    assert isinstance(found, FusedLinear)
    theirs, ours = found.inputs(x), exact.inputs(x)
    held = npu_kernels.unpack_int4(theirs.integers) if theirs.integers.dtype == torch.int32 else theirs.integers
    product = held.double() @ weight.double().T * theirs.scale.double()[:, None] * scale.double()[:, 0]
    definition = product if bias is None else product + bias.double()
    rounding = definition.abs() + (product.abs() if biased and scheme.grid.num_bits == 4 else 0)  # there a bias is added later
    assert ((found(x).flatten(0, 1).double() - definition).abs() <= rounding * 2**-8 + 1e-5).all()
    wider = 2**-7 if scheme.left is not None else 1e-6
    torch.testing.assert_close(theirs.scale, ours.scale.flatten().expand(15), rtol=wider, atol=0)
    off = (held.int() - ours.integers.int()).abs()  # beside a boundary: x / s and x (127 / max|x|); a transform is rounded, too
    assert off.max() <= 1
    assert off.float().mean() < 0.02


def test_what_has_no_fused_kernel_is_multiplied_exactly(monkeypatch):
    monkeypatch.setattr(products, "FUSED", {"cpu": npu.Fused()})
    monkeypatch.setattr(products, "INT8", {"cpu": products.INT8["npu"]})
    products.int8_kernel.cache_clear()
    try:
        weight, scale, x = integers(4, 32, 128), numbers(32, 4).abs() / 100, numbers(6, 128).to(BF16)
        for scheme, groups in (
            (InputScheme(Grid(8, False)), 1),
            (InputScheme(Grid(8, True)), 4),
            (InputScheme(Grid(4, False)), 1),
        ):
            found = integer_linear(weight, scale[:, :groups], None, scheme, 4, BF16, [])
            assert isinstance(found, IntegerLinear)
            assert found.kernels <= {kernel.name for kernel in products.INT8["cpu"]}
            rows = scheme.quantized(x.float())
            inputs = (rows.integers.double() - rows.zero_point) * rows.scale
            exact = inputs @ (weight.double() * scale[:, :groups].repeat_interleave(128 // groups, 1).double()).T
            torch.testing.assert_close(found(x).double(), exact, **ROUNDING)
    finally:
        products.int8_kernel.cache_clear()


def test_the_int32_product_is_exact():
    rows, weight = integers(8, 40, 1536), integers(8, 24, 1536, seed=1)
    rows[0], weight[0] = -128, -128
    assert torch.equal(npu.int8_product(rows, weight), (rows.double() @ weight.double().T).to(torch.int32))


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({}, True),
        ({"dtype": torch.float32}, False),
        ({"symmetric": False}, False),
        ({"shifted": True}, False),
        ({"groups": 2}, False),
        ({"columns": 70000}, False),
        ({"clipped": True}, False),
        ({"input_bits": 4}, False),
        ({"input_bits": 4, "weight_bits": 4}, True),
        ({"input_bits": 4, "weight_bits": 4, "columns": 100}, False),
        ({"input_bits": 4, "weight_bits": 4, "sides": (56, 64), "clipped": True}, True),
        ({"input_bits": 4, "weight_bits": 4, "sides": (128, 148)}, False),  # 18944 columns
        ({"input_bits": 4, "weight_bits": 4, "sides": (144, 192)}, False),  # 27648
    ],
)
def test_cases_that_the_operators_take(change, taken):
    case = Case(8, 8, 32, 128, 1, symmetric=True, static=False, shifted=False, clipped=False, sides=None, dtype=BF16)
    assert npu.Fused.takes(case._replace(**change)) == taken


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_4_bit_weights_alone_are_their_definition(groups, symmetric, monkeypatch):
    """AWQ's and GPTQ's W4A16, which vllm-ascend does not serve."""
    monkeypatch.setattr(npu, "WEIGHT_ONLY", {"cpu"})
    q, scale = integers(4, 48, 256), (numbers(48, groups, seed=1).abs() / 10).to(BF16).float()
    zero = integers(4, 48, groups, seed=2) if not symmetric else torch.zeros(48, groups, dtype=torch.int8)
    held = weight_only.int4_weight((q + 8).to(torch.uint8), scale, (zero + 8).to(torch.uint8), BF16, CPU)
    assert held.kernel == "npu_weight_quant_batchmatmul"
    assert held.nbytes < 0.55 * q.numel() + 4 * 2 * scale.numel() + 1
    repeat = 256 // groups
    dequantized = (q.double() - zero.double().repeat_interleave(repeat, 1)) * scale.double().repeat_interleave(repeat, 1)
    x = numbers(7, 256, seed=3).to(BF16)
    error = (held.multiply(x).double() - x.double() @ dequantized.T).abs()
    rounded = x.double().abs() @ dequantized.abs().T * 2**-8  # each weight, rounded to bfloat16
    assert (error <= rounded + 2**-8 * (x.double() @ dequantized.T).abs() + 1e-6).all()


def test_8_bit_weights_alone_are_their_definition(monkeypatch):
    monkeypatch.setattr(npu, "WEIGHT_ONLY", {"cpu"})
    q, scale, x = integers(8, 48, 100), numbers(48).abs() / 100, numbers(7, 100, seed=3).to(BF16)
    found = weight_only.int8_weight(q, scale, BF16, CPU).multiply(x).double()
    exact = x.double() @ (q.double() * scale.double()[:, None]).T
    assert ((found - exact).abs() <= x.double().abs() @ (q.double().abs() * scale.double()[:, None]).T * 2**-7 + 1e-6).all()


def test_a_weight_that_the_operator_does_not_take_is_unpacked(monkeypatch):
    monkeypatch.setattr(npu, "WEIGHT_ONLY", {"cpu"})
    for out, groups in ((30, 1), (32, 4)):
        given = (
            (integers(4, out, 64) + 8).to(torch.uint8),
            torch.ones(out, groups),
            torch.full((out, groups), 8, dtype=torch.uint8),
        )
        assert isinstance(weight_only.int4_weight(*given, BF16, CPU), weight_only.Int4Weight)
    assert not npu.WeightOnly.takes(65536, 64, 1, 8)
    assert npu.WeightOnly.takes(30, 64, 1, 8)


def test_the_fused_softmax_is_that_of_attention_and_takes_no_decoding_step():
    """Why the paper's fused add, softmax and dropout serves no decoding: a query of one token has no shape that it takes."""
    scores, mask = numbers(2, 16, 128, 256).half(), torch.zeros(2, 16, 128, 256).half()
    mask[..., 200:] = float("-inf")
    _, soft, dropped = npu_kernels.dropout_with_add_softmax(scores, mask, 0.125, 0.0, -1)
    expected = (scores.float() / 8 + mask.float()).softmax(-1).half()
    assert torch.equal(soft, expected)
    assert torch.equal(dropped, expected)  # without dropout it is softmax alone
    kept = numbers(2, 16, 128, 256, seed=1) > 0
    assert torch.equal(npu_kernels.dropout_with_add_softmax(scores, mask, 0.125, 0.5, -1, kept)[2] != 0, (expected != 0) & kept)
    for shape in ((2, 16, 1, 256), (2, 16, 128, 200), (2, 14, 128, 128)):
        with pytest.raises(ValueError, match="takes no"):
            npu_kernels.dropout_with_add_softmax(numbers(*shape).half(), torch.zeros(shape).half(), 0.125, 0.0, -1)
