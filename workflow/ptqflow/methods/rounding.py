"""What every rounding method shares: its result, and the grid of a weight before any rounding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ptqflow.by_name import method
from ptqflow.method import Clip
from ptqflow.numerics.grid import group_weight, scale_and_zero_point
from ptqflow.numerics.observers import min_max
from ptqflow.scheme import WeightArgs


@dataclass(frozen=True)
class RoundedWeight:
    """A weight on its grid: w' = (integers - zero_point) * scale, group by group.

    integers [out, in] int8 (symmetric) or uint8; scale [out, groups] float32; zero_point [out, groups] like integers, or
    float32 where the method gives real ones (`Rounding.real_zero_points`).
    Where a Hessian was used, `damping`: fraction of mean(diag H) that was added, and `condition_number` of the damped one, at
    least. `fallback`: what was done instead, if anything. `lost`: |X (w - w')ᵀ|² of the weight that was to be rounded, where the
    method knows it.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor
    damping: float | None = None
    condition_number: float | None = None
    fallback: str | None = None
    lost: float | None = None


@dataclass(frozen=True)
class Target:
    """A weight [out, in] (float32) to round, the grid it goes on, and how its ranges are clipped (None: not at all)."""

    weight: Tensor
    args: WeightArgs
    clip: Clip | None


def weight_grid(
    weight: Tensor, args: WeightArgs, clip: Clip | None, input_shards: int = 1, gram: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scale and zero point (both float32, [out, groups]) of a weight [out, in]; tensor scales are repeated per row.

    `gram` [in, in], the Gram matrix of the inputs, is what a clip may measure errors by.
    """
    groups = group_weight(weight, args.strategy, args.group_size, input_shards)
    low, high = min_max(groups) if clip is None else method("clip", clip.name).clipped_range(groups, gram, args, clip)
    scale, zero_point = scale_and_zero_point(low, high, args.grid)
    rows = weight.shape[0]
    return scale.expand(rows, -1).contiguous(), zero_point.expand(rows, -1).contiguous()


def clip_rows(weight: Tensor, ratios: Tensor) -> Tensor:
    """A weight [out, in] clamped to `ratios` [out, 2] of the smallest and largest value (and 0) of each row."""
    low, high = weight.amin(1, keepdim=True).clamp(max=0), weight.amax(1, keepdim=True).clamp(min=0)
    return torch.clamp(weight, min=low * ratios[:, :1], max=high * ratios[:, 1:])
