"""GPTQ (Frantar et al., 2023, algorithm 1): round column by column, feed each column's error to the columns still to come.

With H = XᵀX of the layer's inputs and U the upper Cholesky factor of (H + damping)⁻¹, for each column j in turn:

    q_j = quantize(w_j);  e = (w_j - q_j) / U_jj;  w_k -= e U_jk for all later k

Settings of Quantized-Reasoning-Models: static groups (scales from the weight before any update, groups in the original
column order), columns visited by decreasing diag H (`actorder`), columns that no input ever excites zeroed first, lazy updates.

Weights that read the same input have the same H: it is factored once, and their rows, which do not touch each other, go through
the columns together.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ptqflow.methods import rtn
from ptqflow.methods.rounding import RoundedWeight, Target, weight_grid
from ptqflow.numerics.grid import integer_range, storage_dtype
from ptqflow.numerics.linalg import inverse_cholesky
from ptqflow.recipes import GptqRounding, RtnRounding

_FEW = 16  # columns that are updated one by one; beyond them errors arrive as a matrix product


def round_weights(
    targets: Sequence[Target], gram: Tensor | None, rounding: GptqRounding | RtnRounding, input_shards: int = 1
) -> list[RoundedWeight]:
    """Round weights that share an input, given its Gram matrix XᵀX [in, in] (float32, any positive scale).

    Where the damped Hessian cannot be factored, the weights are rounded to nearest and `fallback` says so.
    Raises ValueError without a Gram matrix or with settings of another method.
    """
    if gram is None or not isinstance(rounding, GptqRounding):
        raise ValueError("gptq needs the Gram matrix of the layer's inputs and its own settings")
    diagonal = gram.diagonal()
    dead = diagonal == 0
    if bool(dead.any()):
        targets = [Target(target.weight.masked_fill(dead, 0), target.args, target.clip) for target in targets]

    order = torch.arange(len(gram), device=gram.device)
    if rounding.actorder:
        order = torch.argsort(diagonal, descending=True, stable=True)
    hessian = gram[order][:, order]
    # The reference writes 1 here; the mean of the others keeps the damping independent of the Hessian's scale.
    hessian.diagonal()[dead[order]] = diagonal[~dead].mean() if not bool(dead.all()) else 1.0
    factor = inverse_cholesky(hessian, rounding.dampening_frac)
    del hessian
    if factor is None:
        return [
            RoundedWeight(plain.integers, plain.scale, plain.zero_point, fallback="rtn: the Hessian could not be factored")
            for plain in rtn.round_weights(targets, gram, rounding, input_shards)
        ]

    grids = [weight_grid(target.weight, target.args, target.clip, input_shards, gram) for target in targets]
    rows = [len(target.weight) for target in targets]
    # A weight column is a row here, contiguous, as are the scales and zero points of a group; all weights get the finest groups.
    columns = torch.cat([target.weight.T[order] for target in targets], 1)
    count = math.lcm(*(scale.shape[1] for scale, _ in grids))
    scales, zero_points = (torch.cat([g[i].T.repeat_interleave(count // g[i].shape[1], 0) for g in grids], 1) for i in (0, 1))
    groups = (order // (len(gram) // count)).tolist()
    ranges = torch.tensor([integer_range(t.args.num_bits, t.args.symmetric) for t in targets], dtype=torch.float32)
    lowest, highest = ranges.to(gram.device).repeat_interleave(torch.tensor(rows, device=gram.device), 0).T.contiguous()
    _feed_back(columns, factor.upper, scales, zero_points, groups, lowest, highest, rounding.block_size)

    place = torch.argsort(order)
    kinds = [storage_dtype(target.args.symmetric) for target in targets]
    return [
        RoundedWeight(part.to(kind)[place].T.contiguous(), scale, zero_point.to(kind), factor.damping, factor.condition_number)
        for part, (scale, zero_point), kind in zip(columns.split(rows, 1), grids, kinds, strict=True)
    ]


def _feed_back(
    columns: Tensor,
    upper: Tensor,
    scales: Tensor,
    zero_points: Tensor,
    groups: Sequence[int],
    lowest: Tensor,
    highest: Tensor,
    block_size: int,
) -> None:
    """The column loop: `columns` [in, out] become their integers (as float32), in place.

    `scales` and `zero_points` [groups, out]; `groups`: of each column; `lowest` and `highest` integer [out] of each row's grid.

    Within a block, too, errors go column by column only to the next few, then on by a product: rank-one updates are bound by
    memory.
    """
    count = len(columns)
    errors = torch.empty_like(columns[:block_size])
    value = torch.empty_like(columns[0])
    for start in range(0, count, block_size):
        stop = min(start + block_size, count)
        for few in range(start, stop, _FEW):
            end = min(few + _FEW, stop)
            for j in range(few, end):
                column, scale, zero_point = columns[j], scales[groups[j]], zero_points[groups[j]]
                torch.div(column, scale, out=value).round_().add_(zero_point).clamp_(lowest, highest)
                error = torch.sub(value, zero_point, out=errors[j - start])
                error.mul_(scale).sub_(column).div_(-upper[j, j])
                columns[j + 1 : end].addr_(upper[j, j + 1 : end], error, alpha=-1)
                column.copy_(value)
            columns[end:stop].addmm_(upper[few:end, end:stop].T, errors[few - start : end - start], alpha=-1)
        columns[stop:].addmm_(upper[start:stop, stop:].T, errors[: stop - start], alpha=-1)
