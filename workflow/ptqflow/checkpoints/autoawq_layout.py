"""Form `autoawq`: `qweight` int32 [in, out/8], `qzeros` int32 [groups, out/8], `scales` float16 [groups, out].

Transposed against transformers, packed along the outputs in AutoAWQ's own order (`numerics.packing`). Integers 0 to 15,
w = (q - z) * scale. All other tensors keep the model's dtype.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ptqflow.checkpoints.autoawq_scheme import BITS, quantization_config
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
from ptqflow.numerics.packing import pack, packed_length, reorder_awq, restore_awq, unpack


class Layout(BaseLayout):
    """Words of 8 outputs."""

    def linear_spec(self, linear: QuantizedLinear) -> dict[str, TensorSpec]:
        """Words, zero points and scales, transposed."""
        (rows, columns), groups = linear.shape, linear.groups
        return {
            "qweight": TensorSpec(torch.int32, (columns, packed_length(rows, BITS))),
            "qzeros": TensorSpec(torch.int32, (groups, packed_length(rows, BITS))),
            "scales": scale_spec(torch.float16, groups, rows),
        }

    def encode(self, linear: QuantizedLinear, weight: GridWeight) -> dict[str, Tensor]:
        """The tensors of `linear_spec`."""
        integers, zero_point = unsigned(linear, weight)
        return {
            "qweight": pack(reorder_awq(integers.T), BITS),
            "qzeros": pack(reorder_awq(zero_point.T), BITS),
            "scales": stored_scale(linear, weight, torch.float16).T.contiguous(),
        }

    def decode(self, linear: QuantizedLinear, tensors: Mapping[str, Tensor]) -> GridWeight:
        """Integers, scale and zero point from these tensors."""
        integers, zero_point = (restore_awq(unpack(tensors[name], BITS, linear.shape[0])).T for name in ("qweight", "qzeros"))
        return on_grid(linear, integers, tensors["scales"].T.float(), zero_point)

    def documents(self) -> dict[str, dict[str, Any]]:
        """config.json with the `quantization_config`."""
        return {"config.json": {**self.config, "quantization_config": quantization_config(self.recipe, self.config)}}
