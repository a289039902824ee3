"""Clip search of AWQ (llm-awq, `auto_clip`): clamp each group of a row where that loses the least output.

    limit = M (1 - i / n_grid),  M = max|w| over the group,  i = 0, 1, ... while i < max_shrink n_grid

The grid is that of the weight clamped to ±limit, symmetrically; weights beyond its ends saturate (the reference clamps them
first, to the same integers but for ties). The error is |X_g (w - w')_gᵀ|² with X_g the group's input columns alone, as in the
reference, and exact for all tokens from the group's diagonal block of XᵀX, where the reference samples 512. The full range
(i = 0) is a candidate, and a smaller one wins only by strict improvement.
"""

import torch
from torch import Tensor

from ptqflow.methods.clips.search_settings import SearchClip
from ptqflow.numerics.grid import on_grid, scale_and_zero_point
from ptqflow.numerics.observers import min_max
from ptqflow.numerics.pieces import at_once
from ptqflow.numerics.products import multiply
from ptqflow.scheme import WeightArgs


def clipped_range(groups: Tensor, gram: Tensor | None, args: WeightArgs, clip: SearchClip) -> tuple[Tensor, Tensor]:
    """Range [low, high], each [rows, groups], of weight groups [rows, groups, n], given XᵀX [groups * n, groups * n].

    Raises ValueError without a Gram matrix, or with one of another width (strategy tensor).
    """
    _, count, n = groups.shape
    if gram is None or gram.shape[0] != count * n:
        raise ValueError("clip search needs the Gram matrix of the layer's inputs, and groups of single rows")
    low, high = min_max(groups)
    shrinks = low.new_tensor([1 - i / clip.n_grid for i in range(clip.n_grid) if i < clip.max_shrink * clip.n_grid])
    limits = torch.maximum(-low, high) * shrinks.view(-1, 1, 1)  # [shrinks, rows, groups]
    grids = scale_and_zero_point(low.clamp(-limits, limits), high.clamp(-limits, limits), args.grid)
    best = _errors(groups, gram, args, *grids).nan_to_num(nan=torch.inf).argmin(0, keepdim=True)  # of equals the first
    limit = limits.gather(0, best).squeeze(0)
    return low.clamp(-limit, limit), high.clamp(-limit, limit)


def _errors(groups: Tensor, gram: Tensor, args: WeightArgs, scale: Tensor, zero_point: Tensor) -> Tensor:
    """|X_g (w - w')_gᵀ|² of each row and group on each of its grids, [grids, rows, groups] as their scales and zero points."""
    grids, rows, _ = scale.shape
    n = groups.shape[-1]
    errors = torch.empty_like(scale)
    step = max(1, at_once(groups) // (grids * n))
    for i in range(groups.shape[1]):
        own = gram[i * n : (i + 1) * n, i * n : (i + 1) * n]
        for start in range(0, rows, step):
            part = slice(start, start + step)
            weight, s, z = groups[part, i].float(), scale[:, part, i, None], zero_point[:, part, i, None]
            lost = on_grid(weight, s, z, args.grid).sub_(weight)
            errors[:, part, i] = multiply(lost.flatten(0, 1), own).view_as(lost).mul_(lost).sum(-1)
    return errors
