"""HQQ (Badri & Shaji, 2023, "Half-Quadratic Quantization"): zero points that spare most weights by letting a few be wrong.

    minimize over z   Σ |w - w'|^p,   w' = s (q - z),   q = clamp(round(w / s + z))        p < 1: a norm that forgives outliers

Half-quadratic splitting: an error e stands in for w - w', coupled by β/2 (e - (w - w'))², and the two are solved in turn:

    e = sign(d) max(0, |d| - |d|^(p-1) / β),  d = w - w'                                   (generalized soft threshold)
    z = mean over the group of  q - (w - e) / s;                                           β = κ β

Scales are those of the plain grid, and no data are seen. As the authors' code (`optimize_weights_proximal`), with two departures:
each group keeps its best z by the objective itself, the plain grid's among them, where the code stops all groups at once when the
mean |w - w'| of the matrix rises; and z is real at 4 bits, too, unless the recipe says integer (the code's `round_zero`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ptqflow.method import Rounding
from ptqflow.methods.rounding import RoundedWeight, Target, weight_grid
from ptqflow.methods.roundings.hqq_settings import HqqRounding
from ptqflow.numerics.grid import integer_range, storage_dtype
from ptqflow.numerics.pieces import at_once


def round_weights(
    targets: Sequence[Target], gram: Tensor | None, rounding: Rounding, input_shards: int = 1
) -> list[RoundedWeight]:
    """Round weights that share an input. `gram` serves clips alone. Raises ValueError with settings of another method."""
    if not isinstance(rounding, HqqRounding):
        raise ValueError("hqq needs its own settings")
    return [_round(target, gram, rounding, input_shards) for target in targets]


def _round(target: Target, gram: Tensor | None, rounding: HqqRounding, input_shards: int) -> RoundedWeight:
    weight, args = target.weight, target.args
    scale, start = weight_grid(weight, args, target.clip, input_shards, gram)
    ends = integer_range(args.num_bits, args.symmetric)
    integers = torch.empty_like(weight, dtype=storage_dtype(args.symmetric))
    zero_point = torch.empty_like(start)
    rows = max(1, 4 * at_once(weight) // weight.shape[1])
    for part in (slice(i, i + rows) for i in range(0, len(weight), rows)):
        groups = weight[part].unflatten(1, (scale.shape[1], -1)) / scale[part].unsqueeze(-1)  # in steps of the grid
        best = best_zero_point(groups, scale[part].unsqueeze(-1), start[part].unsqueeze(-1), rounding, ends)
        integers[part] = (groups + best).round_().clamp_(*ends).flatten(1).to(integers.dtype)
        zero_point[part] = best.squeeze(-1)
    if not rounding.real_zero_points:
        zero_point = zero_point.to(integers.dtype)
    return RoundedWeight(integers, scale, zero_point)


def best_zero_point(ratio: Tensor, scale: Tensor, start: Tensor, settings: HqqRounding, ends: tuple[int, int]) -> Tensor:
    """The zero point [rows, groups, 1] of least Σ |w - w'|^p of each group, of those that the solver passes, `start` first.

    `ratio` [rows, groups, n] is w / s; `scale` and `start` [rows, groups, 1]; `ends`: the smallest and the largest integer.
    """
    beta, p, zero = settings.beta, settings.lp_norm, start
    best, least = start, torch.full_like(start, torch.inf)
    for _ in range(settings.iterations + 1):
        q = (ratio + zero).round_().clamp_(*ends)
        lost = (ratio - (q - zero)) * scale
        size = lost.abs()
        loss = size.pow(p).sum(-1, keepdim=True)
        best, least = torch.where(loss < least, zero, best), torch.minimum(loss, least)
        spared = lost.sign() * (size - size.clamp(min=torch.finfo(size.dtype).tiny).pow(p - 1) / beta).clamp_(min=0)
        zero = (q - ratio + spared / scale).mean(-1, keepdim=True)
        if settings.zero_point == "integer":
            zero = zero.round().clamp(*ends)
        beta *= settings.kappa
    return best
