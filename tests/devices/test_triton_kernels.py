"""Kernels of ours for what stands around a product of integers give what its steps give, bit for bit, in Triton's interpreter.

The interpreter has no products of bfloat16 and truncates to it: that is asked of a GPU, as each kernel is before it is taken.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ptqflow.devices import products, weight_only
from ptqflow.methods.clips.mse_settings import MseClip
from ptqflow.methods.rounding import Target
from ptqflow.methods.roundings import gptq
from ptqflow.methods.roundings.gptq_settings import GptqRounding
from ptqflow.modeling import input_scheme, integer_linear
from ptqflow.modeling.input_scheme import InputQuantizer, InputScheme, by_steps, quantizing
from ptqflow.modeling.integer_linear import IntegerLinear, scaled
from ptqflow.numerics.convention import Grid
from ptqflow.scheme import WeightArgs

pytest.importorskip("triton", reason="no Triton, which comes with torch for GPUs; `make check-triton` has it")
if not os.environ.get("TRITON_INTERPRET"):
    pytest.skip("set TRITON_INTERPRET=1, or run `make check-triton`", allow_module_level=True)

from ptqflow.devices import triton_gptq, triton_kernels

CPU, BF16, F16, F32 = torch.device("cpu"), torch.bfloat16, torch.float16, torch.float32


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows(columns, dtype):
    """Of zeros, of one sign, tiny (subnormal but in bfloat16, which the interpreter gets wrong) and large."""
    x, tiny = numbers(4, columns), 1e-34 if dtype == BF16 else 1e-38
    return torch.stack([x[0] * 0, x[1].abs() + 1, x[2] * tiny, x[3] * 1e4]).to(dtype)


def turns(left, right):
    return {"left": numbers(left, left, seed=1) / left**0.5, "right": numbers(right, right, seed=2) / right**0.5}


@pytest.mark.parametrize("clip", [1.0, 0.83])
@pytest.mark.parametrize("dtype", [BF16, F16, F32])
@pytest.mark.parametrize("columns", [96, 128, 1000])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_tokens_are_quantized_bit_for_bit(bits, symmetric, columns, dtype, clip):
    scheme, x = InputScheme(Grid(bits, symmetric), clip=clip), rows(columns, dtype)
    assert_same(triton_kernels.quantized(x, bits, symmetric, clip, None, None), by_steps(x, scheme))


def test_numbers_between_two_integers_go_to_the_even_one():
    x = torch.tensor([[127.0, *(k + 0.5 for k in range(-127, 127))]])
    found = triton_kernels.quantized(x, 8, True, 1.0, None, None)
    assert_same(found, by_steps(x, InputScheme(Grid(8, True))))
    assert (found[0][0, 1:] % 2 == 0).all()


@pytest.mark.parametrize("sides", [(8, 16), (56, 64), (12, 148)])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [F16, F32])
def test_transformed_tokens_are_quantized_as_step_by_step(sides, symmetric, dtype):
    """Products add up in another order: the scale is the same to a rounding, integers beside a boundary may be the next ones."""
    scheme = InputScheme(Grid(4, symmetric), clip=0.9, **turns(*sides))
    x = rows(sides[0] * sides[1], F32)[[0, 1, 3]].to(dtype)
    found, expected = triton_kernels.quantized(x, 4, symmetric, 0.9, scheme.left, scheme.right), by_steps(x, scheme)
    torch.testing.assert_close(found[1], expected.scale, rtol=2e-3 if dtype == F16 else 1e-5, atol=0)
    off = (found[0].int() - expected.integers.int()).abs()
    assert off.max() <= 1
    assert off.float().mean() < 0.01


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("dtype", [F16, F32])
def test_sums_are_scaled_bit_for_bit(biased, shifted, static, dtype):
    generator, count = torch.Generator().manual_seed(0), 1 if static else 5
    total = torch.randint(-(2**28), 2**28, (5, 1100), generator=generator, dtype=torch.int32)
    sums = torch.randint(-(2**20), 2**20, (1100,), generator=generator, dtype=torch.int32) if shifted else None
    zero, by_row, by_column = numbers(count, 1).mul(50).round(), numbers(count, 1) * 1e-3, numbers(1100) * 1e-3
    if static:
        zero, by_row = zero[0], by_row[0]
    given = (total, sums, zero, by_row, by_column, numbers(1100, seed=3).to(BF16) if biased else None, dtype)
    assert torch.equal(triton_kernels.scaled(*given), scaled(*given))


@pytest.mark.parametrize(("capability", "shared"), [(80, 163 * 1024), (90, 227 * 1024)])  # A100; H100, H200
def test_each_compiles_for_a_gpu_into_ieee_quotients_and_unfused_products(capability, shared):
    script = Path(__file__).parents[1] / "support/triton_compiled.py"
    others = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script, str(capability)], env=others, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert max(found["shared"].values()) <= shared
    assert found["exact"]
    assert not found["fused"]


@pytest.fixture
def asked(monkeypatch):
    """This CPU as a device that has the kernels, and is asked anew."""
    monkeypatch.setattr(products, "OWN", {"cpu"})
    monkeypatch.setattr(products, "_seconds", lambda kernel, _: "step by step" in kernel.name)  # the interpreter is not fast
    monkeypatch.setattr(gptq, "_TRIED_ROWS", 64)
    caches = (products.own, weight_only._unpacking, gptq._visiting, input_scheme._quantizing, integer_linear._scaling)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize("scheme", [InputScheme(Grid(8, False)), InputScheme(Grid(4, True), clip=0.9, **turns(8, 16))])
def test_what_comes_out_right_is_taken_and_what_does_not_is_not(scheme, asked, monkeypatch):
    assert quantizing(scheme, 128, F32, CPU).name == "inputs quantized by Triton"
    assert integer_linear._scaling(triton_kernels, F32, CPU).name == "sums scaled by Triton"
    right = triton_kernels.quantized
    monkeypatch.setattr(triton_kernels, "quantized", lambda *given: (right(*given)[0].clamp(max=6), *right(*given)[1:]))
    input_scheme._quantizing.cache_clear()
    assert quantizing(scheme, 128, F32, CPU).name == "inputs quantized step by step"


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("scheme", [InputScheme(Grid(8, False)), InputScheme(Grid(8, True), torch.tensor([0.02]))])
def test_a_linear_is_what_it_is_step_by_step_and_says_what_it_takes(scheme, groups, asked):
    weight = torch.randint(-8, 8, (40, 128), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    scale, bias, x = numbers(40, groups).abs() / 100, numbers(40, seed=1), numbers(2, 3, 128, seed=2)
    found = integer_linear.integer_linear(weight, scale, bias, scheme, 4, F32, [])
    steps = IntegerLinear(weight, scale, bias, InputQuantizer(scheme))
    assert torch.equal(found(x), steps(x))
    by = "step by step" if scheme.scale is not None else "by Triton"
    expected = {f"inputs quantized {by}"} | ({"sums scaled by Triton"} if groups == 1 else set())
    assert found.kernels == steps.kernels | expected


@pytest.mark.parametrize("dtype", [F16, F32])
@pytest.mark.parametrize(("out", "columns", "group"), [(16, 256, 128), (48, 640, 32), (8, 1280, 256)])
def test_4_bit_weights_are_unpacked_bit_for_bit(out, columns, group, dtype):
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**31), 2**31, (out // 8, columns // 128, 32, 4), generator=generator, dtype=torch.int32)
    scales = numbers(columns // group, out, 2).to(BF16).to(dtype)  # of 8 bits, so that a scale times an integer is exact
    assert torch.equal(triton_kernels.unpacked(words, scales, group), weight_only._unpacked(words, scales, group))


def test_what_unpacks_right_is_taken(asked, monkeypatch):
    monkeypatch.setattr(weight_only, "_TRIED", (16, 256))
    assert weight_only._unpacking(CPU, F16, 128).name == "unpacked by Triton"


@pytest.mark.parametrize("block_size", [1, 50, 128])
def test_columns_are_rounded_as_step_by_step(block_size, asked, monkeypatch):
    """Errors add up in another order, so a number between two integers may go to the other one."""
    x = numbers(400, 144) @ numbers(144, 144, seed=1)
    gram = (x.T @ x).T.contiguous().T if block_size == 50 else x.T @ x  # as a transform leaves it
    targets = [
        Target(numbers(40, 144, seed=2), WeightArgs(num_bits=4, symmetric=False, strategy="group", group_size=48), None),
        Target(numbers(30, 144, seed=3), WeightArgs(num_bits=3, symmetric=True, strategy="channel"), MseClip(name="mse")),
    ]
    given = (targets, gram, GptqRounding(name="gptq", block_size=block_size))
    assert gptq._visiting(CPU, block_size) is triton_gptq.visit
    found = gptq.round_weights(*given)
    monkeypatch.setattr(products, "OWN", set())
    products.own.cache_clear()
    gptq._visiting.cache_clear()
    assert gptq._visiting(CPU, block_size) is gptq.visit
    for one, steps in zip(found, gptq.round_weights(*given), strict=True):
        assert (one.integers != steps.integers).float().mean() < 0.005
        assert one.lost == pytest.approx(steps.lost, rel=0.01)


def test_a_block_of_columns_is_read_from_copies(monkeypatch):
    """As no kernel may write what it reads (tests/devices/test_rooms.py)."""
    launched = []

    class Recorder:
        names = triton_gptq._visit.arg_names

        def __getitem__(self, grid):
            return lambda *given, **_: launched.append(dict(zip(self.names, given, strict=False)))

    monkeypatch.setattr(triton_gptq, "_visit", Recorder())
    block, steps, columns = numbers(8, 40), numbers(8, 40), numbers(8, 40)
    triton_gptq.visit(block, steps, columns, numbers(8, 8), gptq.Grids(*numbers(3, 1, 40)), torch.zeros(8, dtype=torch.int64))
    places = {name: given.untyped_storage().data_ptr() for name, given in launched[0].items() if isinstance(given, torch.Tensor)}
    written = {places[name] for name in ("current", "steps", "made")}
    assert written == {part.untyped_storage().data_ptr() for part in (block, steps, columns)}
    assert not written & {place for name, place in places.items() if name not in ("current", "steps", "made")}


def test_blocks_that_a_program_cannot_hold_go_step_by_step(asked, capsys):
    assert gptq._visiting(CPU, 300) is gptq.visit
    assert "a program holds 256 columns, not 300" in capsys.readouterr().err


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b.expand_as(a))
