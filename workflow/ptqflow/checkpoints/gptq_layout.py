"""Form `gptq`: `qweight` [in*b/32, out], `qzeros` [groups, out*b/32], `g_idx` [in], all int32; `scales` float16 [groups, out].

Transposed against transformers; weights are packed down each column, zero points along the outputs, both as dense streams
(`numerics.packing`). Integers are unsigned, w = (q - z) * scale; version 1 (symmetric weights) stores z - 1. All other tensors
keep the model's dtype.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ptqflow.checkpoints.gptq_scheme import quantization_config
from ptqflow.checkpoints.layout import (
    BaseLayout,
    GridWeight,
    QuantizedLinear,
    TensorSpec,
    on_grid,
    scale_spec,
    stored_scale,
    unsigned,
)
from ptqflow.numerics.packing import pack, packed_length, unpack


class Layout(BaseLayout):
    """Words along the inputs; groups in their natural order."""

    def linear_spec(self, linear: QuantizedLinear) -> dict[str, TensorSpec]:
        """Words, zero points, scales, and the group of each input."""
        (rows, columns), bits, groups = linear.shape, linear.weights.num_bits, linear.groups
        return {
            "qweight": TensorSpec(torch.int32, (packed_length(columns, bits), rows)),
            "qzeros": TensorSpec(torch.int32, (groups, packed_length(rows, bits))),
            "scales": scale_spec(torch.float16, groups, rows),
            "g_idx": TensorSpec(torch.int32, (columns,), 0, groups - 1),
        }

    def encode(self, linear: QuantizedLinear, weight: GridWeight) -> dict[str, Tensor]:
        """The tensors of `linear_spec`."""
        bits, (_, columns) = linear.weights.num_bits, linear.shape
        integers, zero_point = unsigned(linear, weight)
        return {
            "qweight": pack(integers, bits).T.contiguous(),
            "qzeros": pack((zero_point - _minus(linear)).T, bits),
            "scales": stored_scale(linear, weight, torch.float16).T.contiguous(),
            "g_idx": torch.arange(columns, dtype=torch.int32) // (columns // linear.groups),
        }

    def decode(self, linear: QuantizedLinear, tensors: Mapping[str, Tensor]) -> GridWeight:
        """Integers, scale and zero point from these tensors."""
        (rows, columns), bits = linear.shape, linear.weights.num_bits
        integers = unpack(tensors["qweight"].T.contiguous(), bits, columns)
        zero_point = unpack(tensors["qzeros"], bits, rows).T + _minus(linear)
        return on_grid(linear, integers, tensors["scales"].T.float(), zero_point)

    def documents(self) -> dict[str, dict[str, Any]]:
        """config.json with the `quantization_config`, and that on its own as older readers want it."""
        found = quantization_config(self.recipe, self.config)
        return {"config.json": {**self.config, "quantization_config": found}, "quantize_config.json": found}


def _minus(linear: QuantizedLinear) -> int:
    """What the stored zero points lack: 1 in version 1, which only symmetric weights (zero point 2^(b-1)) use."""
    return 1 if linear.weights.symmetric else 0
