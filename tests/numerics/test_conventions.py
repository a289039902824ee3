"""Round-to-nearest against the integers and scales of compressed-tensors itself."""

import pytest
import torch
from ptqflow.methods.roundings import rtn
from ptqflow.methods.roundings.rtn_settings import RtnRounding
from ptqflow.presets import resolve
from ptqflow.scheme import WeightArgs
from rounding_helpers import round_one

CASES = [(bits, symmetric, size) for bits in (2, 3, 4, 8) for symmetric in (True, False) for size in (None, 128)]


def weight(dtype):
    random = torch.Generator().manual_seed(0)
    value = torch.randn(96, 384, generator=random) * torch.rand(96, 1, generator=random)
    value[3], value[4] = value[3].abs(), -value[4].abs()  # ranges that do not hold zero
    value[5, :128] = 0.25
    return value.to(dtype)


def theirs(value, bits, symmetric, size):
    """Integers, scale and zero point as compressed-tensors computes them for bfloat16 scales, in the dtype of the weight."""
    package = pytest.importorskip("compressed_tensors.quantization")
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils.helpers import calculate_qparams

    args = package.QuantizationArgs(
        num_bits=bits, symmetric=symmetric, strategy="group" if size else "channel", group_size=size, scale_dtype=torch.bfloat16
    )
    groups = value.unflatten(1, (-1, size or value.shape[1]))
    scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    return quantize(value, scale, zero_point, args), scale, zero_point


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("bits", "symmetric", "size"), CASES)
def test_rtn_gives_the_integers_and_scales_of_compressed_tensors(bits, symmetric, size, dtype):
    """In float32; with few bits and no zero point as it computes in bfloat16, so that half-way weights of float32 may differ."""
    value, in_bfloat16 = weight(dtype).float(), symmetric and bits <= 4
    integers, scale, zero_point = theirs(value.to(dtype) if in_bfloat16 else value, bits, symmetric, size)
    args = WeightArgs(
        num_bits=bits,
        symmetric=symmetric,
        strategy="group" if size else "channel",
        group_size=size,
        convention="compressed-tensors",
    )
    ours = round_one(rtn, value, None, args, None, RtnRounding())
    signed = 0 if symmetric else 2 ** (bits - 1)
    assert torch.equal(ours.scale, scale)
    assert torch.equal(ours.zero_point.float() - signed, zero_point.float())
    other = ours.integers.float() - signed != integers
    if in_bfloat16 and dtype == torch.float32:
        steps = (value.unflatten(1, (scale.shape[1], -1)) / scale.float().unsqueeze(-1)).flatten(1)[other]
        assert ((steps - steps.floor() - 0.5).abs() <= 2**-6).all()
    else:
        assert not other.any()


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_symmetric_scales_are_those_that_compressed_tensors_computes_in_bfloat16(bits):
    value = weight(torch.bfloat16)
    _, scale, _ = theirs(value, bits, True, 128)
    args = WeightArgs(num_bits=bits, strategy="group", group_size=128, convention="compressed-tensors")
    assert torch.equal(round_one(rtn, value.float(), None, args, None, RtnRounding()).scale.bfloat16(), scale)


def test_presets_keep_the_convention_of_quantized_reasoning_models():
    presets = [resolve({"preset": name}) for name in ("rtn-w4a16", "gptq-w4a16", "awq-w4a16")]
    assert {recipe.scheme.weights.convention for recipe in presets} == {"flatquant"}
