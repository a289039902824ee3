"""What every rounding method shares: its result, and the grid of a weight before any rounding."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ptqflow.by_name import method
from ptqflow.method import Clip
from ptqflow.numerics.grid import group_weight, scale_and_zero_point
from ptqflow.numerics.observers import min_max
from ptqflow.numerics.straight_through import clamp_rows, quantize_dequantize
from ptqflow.scheme import WeightArgs


@dataclass(frozen=True)
class RoundedWeight:
    """A weight on its grid: w' = (integers - zero_point) * scale, group by group.

    integers [out, in] int8 (symmetric) or uint8; scale [out, groups] float32; zero_point [out, groups] like integers, or
    float32 where the method gives real ones (`Rounding.real_zero_points`).
    Where a Hessian was used, `damping`: fraction of mean(diag H) that was added, and `condition_number` of the damped one, at
    least. `fallback`: what was done instead, if anything. `lost`: |X (w - w')ᵀ|² of the weight that was to be rounded, where the
    method knows it. `unseen` [in] bool: columns that it rounded as 0 because no input excites them; None: none.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor
    damping: float | None = None
    condition_number: float | None = None
    fallback: str | None = None
    lost: float | None = None
    unseen: Tensor | None = None


@dataclass(frozen=True)
class Target:
    """A weight [out, in] (float32) to round, the grid it goes on, and how its ranges are clipped (None: not at all)."""

    weight: Tensor
    args: WeightArgs
    clip: Clip | None


@dataclass(frozen=True)
class HeldOut:
    """XᵀX [in, in] (float32) of the inputs X that are held out, by which a clip is chosen.

    gram: as weights are rounded by. attended: where that is another, with tokens that count by the attention they receive.
    """

    gram: Tensor
    attended: Tensor | None = None

    @property
    def judge(self) -> Tensor:
        """What errors are measured by."""
        return self.gram if self.attended is None else self.attended

    def each(self, change: Callable[[Tensor], Tensor]) -> "HeldOut":
        """With both matrices changed alike."""
        return HeldOut(change(self.gram), None if self.attended is None else change(self.attended))


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
    return torch.clamp(weight, *clipped_ends(weight, weight, ratios))


def clipped_ends(low: Tensor, high: Tensor, ratios: Tensor) -> tuple[Tensor, Tensor]:
    """`ratios` [out, 2] of the ends (and 0) of each row, both [out, 1], of the ends [out, groups] of its groups."""
    least, most = low.amin(1, keepdim=True).clamp(max=0), high.amax(1, keepdim=True).clamp(min=0)
    return least * ratios[:, :1], most * ratios[:, 1:]


def quantize_clipped(weight: Tensor, args: WeightArgs, ratios: Tensor, input_shards: int = 1) -> Tensor:
    """`clip_rows`, then round to nearest and dequantize, differentiable in the weight [out, in] and the ratios; float32.

    Clamping commutes with a group's smallest and largest value, so that its range is known without a look at the clamped weight.
    """
    groups = weight.float().unflatten(1, (-1, args.group_size or weight.shape[1] // input_shards))
    low, high = min_max(groups)
    ends = clipped_ends(low, high, ratios)
    low, high = low.clamp(*ends), high.clamp(*ends)
    if args.strategy == "tensor":
        low, high = low.amin(0, keepdim=True), high.amax(0, keepdim=True)
    scale, zero_point = (t.unsqueeze(-1) for t in scale_and_zero_point(low, high, args.grid))
    clamped = clamp_rows(groups, *(end.unsqueeze(-1) for end in ends))
    return quantize_dequantize(clamped, scale, zero_point.detach(), args.grid).flatten(1)
