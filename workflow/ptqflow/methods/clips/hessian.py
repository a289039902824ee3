"""Clip by the error of the weights, each column's weighted by diag H: shrink each group's range to the fraction that minimizes

    sum_j H_jj |w_j - w'_j|^norm,  H = XᵀX of the layer's inputs X

which with norm 2 is |X (w - w')ᵀ|² where channels of X are uncorrelated: columns that large inputs read keep a fine step.
"""

import torch
from torch import Tensor

from ptqflow.methods.clips.hessian_settings import HessianClip
from ptqflow.numerics.grid import on_grid, scale_and_zero_point
from ptqflow.numerics.observers import min_max
from ptqflow.numerics.pieces import at_once
from ptqflow.scheme import WeightArgs


def clipped_range(groups: Tensor, gram: Tensor | None, args: WeightArgs, clip: HessianClip) -> tuple[Tensor, Tensor]:
    """Range [low, high], each [rows, groups], of weight groups [rows, groups, n], given XᵀX [groups * n, groups * n].

    The full range is a candidate, and a smaller one wins only by strict improvement. Raises ValueError without a Gram matrix, or
    with one of another width (strategy tensor).
    """
    _, count, n = groups.shape
    if gram is None or gram.shape[0] != count * n:
        raise ValueError("clip hessian needs the Gram matrix of the layer's inputs, and groups of single rows")
    importance = gram.diagonal().view(count, n)
    found = [_range(part.float(), importance, args, clip) for part in groups.split(max(1, at_once(groups) // (count * n)))]
    return torch.cat([low for low, _ in found]), torch.cat([high for _, high in found])


def _range(groups: Tensor, importance: Tensor, args: WeightArgs, clip: HessianClip) -> tuple[Tensor, Tensor]:
    """As `clipped_range`, of some rows; `importance` [groups, n]."""
    low, high = min_max(groups)
    best, least = torch.ones_like(low), torch.full_like(low, torch.inf)
    for i in range(int(clip.max_shrink * clip.n_grid)):
        ratio = 1 - i / clip.n_grid
        scale, zero_point = (t.unsqueeze(-1) for t in scale_and_zero_point(low * ratio, high * ratio, args.grid))
        lost = on_grid(groups, scale, zero_point, args.grid).sub_(groups)
        error = lost.abs_().pow_(clip.norm).mul_(importance).sum(-1)
        better = error < least
        best, least = best.masked_fill(better, ratio), torch.where(better, error, least)
    return low * best, high * best
