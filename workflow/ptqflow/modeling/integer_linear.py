"""Linears that compute with the integers of a checkpoint, as engines' kernels do: no dequantized weight is ever held.

The contract, the same on every device: the product of integers is exact; a result differs from its definition by rounding alone.

    W8A8    y = s_x s_w (q_x - z_x) q_wᵀ + b
    W4A16   y = x ((q - z) s)ᵀ + b

q_x, s_x and z_x of each token are what fake quantizers find; s_x of static inputs is the checkpoint's.
"""

import torch
from torch import Tensor, nn

from ptqflow.devices.products import Int4Weight, int8_kernel
from ptqflow.modeling.scopes import scope
from ptqflow.numerics.convention import Grid
from ptqflow.numerics.grid import dynamic_scale_and_zero_point, quantize


class Int8Linear(nn.Module):
    """W8A8 by row with symmetric weights. `input_scale` None: of each token, as it comes, on a symmetric grid or not."""

    weight: Tensor
    weight_scale: Tensor
    row_sums: Tensor
    input_scale: Tensor | None
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, symmetric: bool = True, input_scale: Tensor | None = None
    ) -> None:
        """From int8 [out, in], float32 [out, 1], the bias [out], and for static inputs float32 [1]; all where they run.

        Raises ValueError for static inputs on an asymmetric grid.
        """
        super().__init__()
        if input_scale is not None and not symmetric:
            raise ValueError("static inputs are symmetric; give no input_scale for asymmetric ones")
        self.grid = Grid(8, symmetric)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("weight_scale", weight_scale.float().flatten(), persistent=False)
        self.register_buffer("row_sums", weight.sum(1, dtype=torch.int32), persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("input_scale", None if input_scale is None else input_scale.float(), persistent=False)
        self.kernel = int8_kernel(weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] of x [..., in], in the dtype of x; scaled in float32."""
        with scope("quantize"):
            integers, scale, zero_point = self.quantized(x.flatten(0, -2))
        with scope("product"):
            total = self.kernel.product(integers, self.weight)
        with scope("scale"):
            if not self.grid.symmetric:
                total = total - zero_point.to(torch.int32) * self.row_sums
            return self.scaled(total, scale).to(x.dtype).unflatten(0, x.shape[:-1])

    def quantized(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Integers int8 [rows, in], scale and zero point (float32, broadcasting) of inputs [rows, in]."""
        rows = rows.float()
        if self.input_scale is None:
            low, high = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)
            scale, zero_point = dynamic_scale_and_zero_point(low, high, 8, self.grid.symmetric)
        else:
            scale, zero_point = self.input_scale, torch.zeros_like(self.input_scale)
        shift = 0 if self.grid.symmetric else 128  # integers 0 to 255 as int8
        return (quantize(rows, scale, zero_point, self.grid) - shift).to(torch.int8), scale, zero_point - shift

    def scaled(self, total: Tensor, scale: Tensor) -> Tensor:
        """The result in float32 from the product of integers int32 [rows, out] and the inputs' scale."""
        result = total * scale * self.weight_scale
        return result if self.bias is None else result + self.bias


class Int4Linear(nn.Module):
    """W4A16 in groups, symmetric or not, in torch's packed layout."""

    bias: Tensor | None

    def __init__(self, weight: Int4Weight, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] of x [..., in], in the dtype of x."""
        with scope("product"):
            result = self.weight.multiply(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
            return result if self.bias is None else result + self.bias
