"""What another program wrote by compressed-tensors is read as the library reads it, or refused by the linear's name."""

import itertools

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from ptqflow.devices.device import select
from ptqflow.engines.compressed_tensors_linears import CompressedTensors, _linear
from ptqflow.errors import ConfigError
from ptqflow.numerics.grid import fake_quantize

SHAPES = [(20, 96, 32), (16, 45, 15), (32, 128, 64)]  # outputs, inputs, columns of a group
KINDS = [
    (bits, strategy, symmetric, inputs)
    for bits, strategy, symmetric, inputs in itertools.product((4, 8), ("tensor", "channel", "group"), (True, False), (None, 8))
]


def written(bits, strategy, symmetric, inputs, form, out, columns, group):
    """A linear's scheme, its tensors as stored, and the weight that the library makes of them."""
    generator = torch.Generator().manual_seed(bits * out)
    args = QuantizationArgs(
        num_bits=bits, strategy=strategy, symmetric=symmetric, group_size=group if strategy == "group" else None
    )
    by_token = QuantizationArgs(num_bits=inputs, strategy="token", dynamic=True) if inputs else None
    scheme = QuantizationScheme(targets=["Linear"], weights=args, input_activations=by_token, format=form)
    sides = {"tensor": (1,), "channel": (out, 1), "group": (out, columns // group)}[strategy]
    scale = torch.rand(sides, generator=generator) / 10 + 0.01
    zero = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), sides, generator=generator, dtype=torch.int8)
    zero = zero.zero_() if symmetric else zero
    state = {"weight": torch.randn(out, columns, generator=generator), "weight_scale": scale, "weight_zero_point": zero}
    compressor = BaseCompressor.get_value_from_registry(form)
    stored = compressor.compress(state, scheme)
    return scheme, stored, compressor.decompress(dict(stored), scheme)["weight"]


@pytest.mark.parametrize("form", ["pack-quantized", "int-quantized"])
@pytest.mark.parametrize(("bits", "strategy", "symmetric", "inputs"), KINDS)
def test_stored_weights_multiply_as_the_library_dequantizes_them(bits, strategy, symmetric, inputs, form):
    for out, columns, group in SHAPES:
        scheme, stored, weight = written(bits, strategy, symmetric, inputs, form, out, columns, group)
        bias, x = torch.randn(out), torch.randn(3, 5, columns)
        if bits == 8 and (not symmetric or (inputs is None and strategy == "group")):
            with pytest.raises(ConfigError, match=r"layer: .*no kernel for W8"):
                _linear("layer", stored | {"bias": bias}, scheme, select("cpu"), [])
            continue
        linear = _linear("layer", stored | {"bias": bias}, scheme, select("cpu"), [])
        given = x if inputs is None else fake_quantize(x, 8, True)
        torch.testing.assert_close(linear(x), given @ weight.T + bias, rtol=1e-4, atol=1e-3)


def test_a_shorter_last_group_is_refused_by_name():
    scheme, stored, _ = written(4, "group", True, None, "pack-quantized", 16, 96, 32)
    scheme.weights.group_size = 64  # of 96 inputs: one and a half
    stored["weight_scale"] = stored["weight_scale"][:, :2]
    with pytest.raises(ConfigError, match=r"layer: 96 inputs are not 2 groups of 64"):
        _linear("layer", stored, scheme, select("cpu"), [])


def test_what_would_be_read_as_something_else_is_refused(tmp_path):
    scheme, stored, weight = written(8, "channel", True, 8, "int-quantized", 16, 45, 15)
    with pytest.raises(ConfigError, match=r"layer: .*weights stored as floats"):
        _linear("layer", stored | {"weight": weight}, scheme, select("cpu"), [])
    scheme.output_activations = QuantizationArgs(num_bits=8)
    with pytest.raises(ConfigError, match=r"layer: .*quantized outputs"):
        _linear("layer", stored, scheme, select("cpu"), [])
    transforms = {"config_groups": {"R4": {"type": "hadamard", "apply": []}}}
    with pytest.raises(ConfigError, match=r"no transform_config \(R4\)"):
        CompressedTensors(tmp_path, {"quant_method": "compressed-tensors", "transform_config": transforms})
