"""Clip search of AWQ (llm-awq, `auto_clip`): clamp each group of a row where that loses the least output.

    limit = M (1 - i / n_grid),  M = max|w| over the group,  i = 0, 1, ... while i < max_shrink n_grid

The grid is that of the weight clamped to ±limit, symmetrically; weights beyond its ends saturate (the reference clamps them
first, to the same integers but for ties). The error is |X_g (w - w')_gᵀ|² with X_g the group's input columns alone, as in the
reference, and exact for all tokens from the group's diagonal block of XᵀX, where the reference samples 512. The full range
(i = 0) is a candidate, and a smaller one wins only by strict improvement.
"""

import torch
from torch import Tensor

from ptqflow.numerics.grid import quantize, scale_and_zero_point
from ptqflow.numerics.observers import min_max
from ptqflow.recipes import SearchClip, WeightArgs

_ELEMENTS_AT_ONCE = 1 << 22


def clipped_range(groups: Tensor, gram: Tensor | None, args: WeightArgs, clip: SearchClip) -> tuple[Tensor, Tensor]:
    """Range [low, high], each [rows, groups], of weight groups [rows, groups, n], given XᵀX [groups * n, groups * n].

    Raises ValueError without a Gram matrix, or with one of another width (strategy tensor).
    """
    _, count, n = groups.shape
    if gram is None or gram.shape[0] != count * n:
        raise ValueError("clip search needs the Gram matrix of the layer's inputs, and groups of single rows")
    own = torch.stack([gram[i : i + n, i : i + n] for i in range(0, count * n, n)])  # [groups, n, n]
    shrinks = [1 - i / clip.n_grid for i in range(clip.n_grid) if i < clip.max_shrink * clip.n_grid]
    limits = [
        _best_limit(part.transpose(0, 1).float(), own, args, shrinks)
        for part in groups.split(max(1, _ELEMENTS_AT_ONCE // (count * n)))
    ]
    limit = torch.cat(limits, dim=1).T
    low, high = min_max(groups)
    return low.clamp(-limit, limit), high.clamp(-limit, limit)


def _best_limit(weight: Tensor, own: Tensor, args: WeightArgs, shrinks: list[float]) -> Tensor:
    """Best limit [groups, rows] of weight groups [groups, rows, n]; `own` [groups, n, n] are their Gram matrices."""
    low, high = min_max(weight)
    largest = torch.maximum(-low, high)
    best_error = torch.full_like(largest, torch.inf)
    best_limit = largest
    for shrink in shrinks:
        limit = largest * shrink
        scale, zero_point = (
            t.unsqueeze(-1) for t in scale_and_zero_point(low.clamp(-limit, limit), high.clamp(-limit, limit), args.grid)
        )
        lost = quantize(weight, scale, zero_point, args.grid).sub_(zero_point).mul_(scale).sub_(weight)
        error = torch.bmm(lost, own).mul_(lost).sum(-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_limit = torch.where(better, limit, best_limit)
    return best_limit
