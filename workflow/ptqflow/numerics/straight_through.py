"""Quantize-dequantize with gradients: rounding counts as the identity, clamping does not (straight-through estimator).

Values are those of `numerics.grid`, number for number. Gradients flow to x, to the scale and, through the range, to learned
clips; not to zero points.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ptqflow.numerics.convention import Grid
from ptqflow.numerics.grid import dynamic_scale_and_zero_point, integer_range, on_grid, unclamped


class _QuantizeDequantize(torch.autograd.Function):
    """With u = x / s: the gradient of x is g where u is inside the grid; that of s is the sum of g (q - z - u [inside])."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.grid = grid
        return on_grid(x, scale, zero_point, grid)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, scale, zero_point = ctx.saved_tensors
        lowest, highest = integer_range(ctx.grid.num_bits, ctx.grid.symmetric)
        ratio = x / scale
        rounded = unclamped(ratio.clone(), zero_point, ctx.grid)
        integers = rounded.clamp(lowest, highest)
        outside = integers != rounded
        slope = integers.sub_(zero_point).sub_(ratio.masked_fill_(outside, 0.0))
        return gradient.masked_fill(outside, 0.0), slope.mul_(gradient).sum_to_size(scale.shape), None, None


class _ClampRows(torch.autograd.Function):
    """Of each gradient, an end gets what is clamped to it, x the rest."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward(x, low, high)
        return torch.clamp(x, low, high)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, low, high = ctx.saved_tensors
        below, above = torch.where(x < low, gradient, 0.0), torch.where(x > high, gradient, 0.0)
        return (gradient - below).sub_(above), below.sum(-1, keepdim=True), above.sum(-1, keepdim=True)


def clamp_rows(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x [..., n] clamped to the ends [..., 1] of its rows, differentiable in all three: torch's, in half its passes over x."""
    result: Tensor = _ClampRows.apply(x, low, high)
    return result


def quantize_dequantize(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """(clamp(round(x / s) + z) - z) * s in float32, differentiable in `x` and `scale`; both others broadcast against `x`."""
    result: Tensor = _QuantizeDequantize.apply(x.float(), scale, zero_point, grid)
    return result


def fake_quantize_clipped(x: Tensor, num_bits: int, symmetric: bool, clip: Tensor | None, shards: int = 1) -> Tensor:
    """`grid.fake_quantize` with the range of each row (and shard) times clip ratios [shards, 2] (low, high), if given.

    The dtype and shape of `x` [..., n]; with ratios of 1, or none, the values of `grid.fake_quantize`. Differentiable in `x` and
    `clip`.
    """
    rows = x.float().unflatten(-1, (shards, -1))
    low, high = rows.amin(-1, keepdim=True).clamp(max=0), rows.amax(-1, keepdim=True).clamp(min=0)
    if clip is not None:
        low, high = low * clip[:, :1].float(), high * clip[:, 1:].float()
    scale, zero_point = dynamic_scale_and_zero_point(low, high, num_bits, symmetric)
    return quantize_dequantize(rows, scale, zero_point.detach(), Grid(num_bits, symmetric)).flatten(-2).to(x.dtype)
