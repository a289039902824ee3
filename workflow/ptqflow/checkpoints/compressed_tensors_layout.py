"""Form `compressed-tensors`: bytes (`int-quantized`) or dense words (`pack-quantized`), as vLLM and transformers read them.

Bytes: `weight` int8 [out, in], `weight_scale` [out, groups]; with static inputs `input_scale` float32 [1]. Words: `weight_packed`
int32 [out, ceil(in*b/32)], `weight_scale`, `weight_shape` int64 [2], and for asymmetric weights `weight_zero_point` int32
[ceil(out*b/32), groups], packed along rows.
Integers are signed, or offset by 2^(b-1) in words; w = (q - z) * scale. Words are written with the library's own packer and
read with ours.
"""

from collections.abc import Mapping
from typing import Any

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationConfig
from torch import Tensor

from ptqflow.checkpoints.compressed_tensors_scheme import INT, layout_of, quantization_config
from ptqflow.checkpoints.layout import BaseLayout, GridWeight, QuantizedLinear, TensorSpec, on_grid, scale_spec, stored_scale
from ptqflow.numerics.grid import integer_range
from ptqflow.numerics.packing import packed_length, unpack_weight


class Layout(BaseLayout):
    """Scales have the model's dtype; everything that is not a quantized weight is as in the float model, transforms folded in."""

    def linear_spec(self, linear: QuantizedLinear) -> dict[str, TensorSpec]:
        """Bytes and scales, or words, scales, shape and zero points."""
        (rows, columns), bits, groups = linear.shape, linear.weights.num_bits, linear.groups
        scale = scale_spec(linear.dtype, rows, groups)
        if layout_of(linear.scheme) == INT:
            low, high = integer_range(bits, symmetric=True)
            spec = {"weight": TensorSpec(torch.int8, linear.shape, low, high), "weight_scale": scale}
            return spec | ({"input_scale": scale_spec(torch.float32, 1)} if _is_static(linear) else {})
        spec = {
            "weight_packed": TensorSpec(torch.int32, (rows, packed_length(columns, bits))),
            "weight_scale": scale,
            "weight_shape": TensorSpec(torch.int64, (2,), min(linear.shape), max(linear.shape)),
        }
        if not linear.weights.symmetric:
            spec["weight_zero_point"] = TensorSpec(torch.int32, (packed_length(rows, bits), groups))
        return spec

    def encode(self, linear: QuantizedLinear, weight: GridWeight) -> dict[str, Tensor]:
        """The tensors of `linear_spec`."""
        bits = linear.weights.num_bits
        scale = stored_scale(linear, weight, linear.dtype)
        if layout_of(linear.scheme) == INT:
            name = f"{linear.prefix}.input_scale"
            static = {"input_scale": self.qparams[name].float()} if _is_static(linear) else {}
            return {"weight": weight.integers, "weight_scale": scale} | static
        tensors = {
            "weight_packed": pack_to_int32(self._signed(linear, weight.integers), bits),
            "weight_scale": scale,
            "weight_shape": torch.tensor(linear.shape),
        }
        if not linear.weights.symmetric:
            tensors["weight_zero_point"] = pack_to_int32(self._signed(linear, weight.zero_point), bits, packed_dim=0)
        return tensors

    def decode(self, linear: QuantizedLinear, tensors: Mapping[str, Tensor]) -> GridWeight:
        """Integers, scale and zero point from these tensors."""
        bits = linear.weights.num_bits
        scale = tensors["weight_scale"].float()
        if layout_of(linear.scheme) == INT:
            return GridWeight(tensors["weight"], scale, torch.zeros(scale.shape, dtype=torch.int8))
        zero_points = None if linear.weights.symmetric else tensors["weight_zero_point"]
        integers, zero_point = unpack_weight(tensors["weight_packed"], linear.shape, bits, scale.shape, zero_points)
        return on_grid(linear, integers, scale, zero_point)

    def documents(self) -> dict[str, dict[str, Any]]:
        """config.json with the `quantization_config`, which the library's own data model has accepted."""
        found = quantization_config(self.recipe, self.config)
        QuantizationConfig.model_validate(found)
        return {"config.json": {**self.config, "quantization_config": found}}

    @staticmethod
    def _signed(linear: QuantizedLinear, integers: Tensor) -> Tensor:
        """Integers of the grid as int8 in [-2^(b-1), 2^(b-1)-1]."""
        if linear.weights.symmetric:
            return integers
        return (integers.to(torch.int16) - 2 ** (linear.weights.num_bits - 1)).to(torch.int8)


def _is_static(linear: QuantizedLinear) -> bool:
    inputs = linear.scheme.input_activations
    return inputs is not None and not inputs.dynamic
