"""GPTQ (Frantar et al., 2023): round column by column, feed each column's error to the columns still to come.

With H = XᵀX of the layer's inputs, damped, and L Lᵀ = H, the loss |X(w - q)|² is |Lᵀ(w - q)|², triangular: a column, given those
after it, is best at c. So for each column j in turn, from the last to the first:

    c = w_j + Σ_k>j (w_k - q_k) L_kj / L_jj;  q_j = quantize(c)

and the loss is Σ_j (L_jj (c - q_j))². These are the integers of the paper's algorithm 1, which gets c from the Cholesky factor of
H⁻¹, by adding to the columns still to come (Chen et al., 2025, "GPTQ as Babai's nearest plane algorithm"); nothing is inverted.

Settings of Quantized-Reasoning-Models: static groups (scales from the weight before any update, groups in the original
column order), columns visited by decreasing diag H (`actorder`), columns that no input ever excites zeroed first, lazy updates.

Weights that read the same input have the same H: it is factored once, and their rows, which do not touch each other, go through
the columns together.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ptqflow.method import Rounding
from ptqflow.methods.asymmetric import corrected_weights as corrected_weights  # found here by the rounding's name
from ptqflow.methods.rounding import RoundedWeight, Target, weight_grid
from ptqflow.methods.roundings import rtn
from ptqflow.methods.roundings.gptq_settings import GptqRounding
from ptqflow.numerics.grid import integer_range, storage_dtype
from ptqflow.numerics.linalg import damped_cholesky
from ptqflow.numerics.products import add_product

_FEW = 32  # columns whose errors arrive one column at a time; those of earlier ones arrive as a matrix product
_ROWS = 512  # of a Hessian, permuted at once
# Float32 has no fractions here, so adding it rounds, half to even; beyond 2^22 both ways the grid's ends clamp. torch.round would
# start threads for each column.
_WHOLE = 1.5 * 2**23


def round_weights(
    targets: Sequence[Target], gram: Tensor | None, rounding: Rounding, input_shards: int = 1
) -> list[RoundedWeight]:
    """Round weights that share an input, given its Gram matrix XᵀX [in, in] (float32, any positive scale).

    Where the damped Hessian cannot be factored, the weights are rounded to nearest and `fallback` says so.
    Raises ValueError without a Gram matrix or with settings of another method.
    """
    if gram is None or not isinstance(rounding, GptqRounding):
        raise ValueError("gptq needs the Gram matrix of the layer's inputs and its own settings")
    diagonal = gram.diagonal()
    dead = diagonal == 0
    unseen = dead if bool(dead.any()) else None
    if unseen is not None:
        targets = [Target(target.weight.masked_fill(dead, 0), target.args, target.clip) for target in targets]

    order = torch.arange(len(gram), device=gram.device)
    if rounding.actorder:
        order = torch.argsort(diagonal, descending=True, stable=True)
    order = order.flip(0)  # the first to visit is the last
    hessian = torch.empty_like(gram)
    for part, of_rows in zip(hessian.split(_ROWS), order.split(_ROWS), strict=True):
        torch.index_select(gram.index_select(0, of_rows), 1, order, out=part)
    # The reference writes 1 here; the mean of the others keeps the damping independent of the Hessian's scale.
    hessian.diagonal()[dead[order]] = diagonal[~dead].mean() if not bool(dead.all()) else 1.0
    filled = hessian.diagonal() - diagonal[order]
    factor = damped_cholesky(hessian, rounding.dampening_frac)
    del hessian
    if factor is None:
        return [
            replace(plain, fallback="rtn: the Hessian could not be factored", unseen=unseen)
            for plain in rtn.round_weights(targets, gram, rounding, input_shards)
        ]

    grids = [weight_grid(target.weight, target.args, target.clip, input_shards, gram) for target in targets]
    rows = [len(target.weight) for target in targets]
    # A weight column is a row here, contiguous, as are the scales and zero points of a group; all weights get the finest groups.
    columns = gram.new_empty(len(gram), sum(rows))
    for target, part in zip(targets, columns.split(rows, 1), strict=True):
        torch.index_select(target.weight.T.contiguous(), 0, order, out=part)
    count = math.lcm(*(scale.shape[1] for scale, _ in grids))
    scales, zero_points = (torch.cat([g[i].T.repeat_interleave(count // g[i].shape[1], 0) for g in grids], 1) for i in (0, 1))
    groups = order // (len(gram) // count)
    ranges = torch.tensor([integer_range(t.args.num_bits, t.args.symmetric) for t in targets], dtype=torch.float32)
    lowest, highest = ranges.to(gram.device).repeat_interleave(torch.tensor(rows, device=gram.device), 0).T

    kinds = [storage_dtype(target.args.symmetric) for target in targets]
    integers = [torch.empty_like(part, dtype=kind) for part, kind in zip(columns.split(rows, 1), kinds, strict=True)]
    condition_number, pivots = factor.condition_number, factor.lower.diagonal().square()
    added = filled + factor.added
    lost = torch.zeros_like(columns[0])
    ends = lowest - zero_points, highest - zero_points
    for here, steps, errors in _feed_back(columns, factor.lower, scales, *ends, groups.tolist(), rounding.block_size):
        for result, part in zip(integers, steps.add_(zero_points[groups[here]]).split(rows, 1), strict=True):
            result.index_copy_(0, order[here], part.to(result.dtype))
        lost += pivots[here] @ errors.square_() - added[here] @ columns[here].square()
    return [
        RoundedWeight(
            part.T.contiguous(),
            scale,
            zero_point.to(part.dtype),
            factor.damping,
            condition_number,
            lost=max(0.0, of_rows.double().sum().item()),
            unseen=unseen,
        )
        for part, (scale, zero_point), of_rows in zip(integers, grids, lost.split(rows), strict=True)
    ]


def _feed_back(
    columns: Tensor,
    lower: Tensor,
    scales: Tensor,
    lowest: Tensor,
    highest: Tensor,
    groups: Sequence[int],
    block_size: int,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The column loop: `columns` [in, out], from the last to the first, become w - q in place; `lower` [in, in], too, is used
    up (what is above its diagonal is not looked at).

    `scales`, `lowest` and `highest` [groups, out]: of the grid q = steps * scale; `groups`: of each column. Yields for each block
    of columns where it is, its steps (whole numbers as float32) and its errors c - q, both [block, out].

    Errors arrive at a block as one product, then at a few of its columns, then at each of these, just before it is rounded: so
    the loop over columns reads and writes little.
    """
    lower /= lower.diagonal().clone()  # the diagonal itself becomes ones on the way
    whole = torch.full_like(columns[0], _WHOLE)
    scale_of, lowest_of, highest_of = scales.unbind(), (lowest + _WHOLE).unbind(), (highest + _WHOLE).unbind()
    for stop in range(len(columns), 0, -block_size):
        start = max(stop - block_size, 0)
        block = columns[start:stop].clone()
        add_product(block, lower[stop:, start:stop].T, columns[stop:])
        steps = torch.empty_like(block)
        for end in range(stop, start, -_FEW):
            few = slice(max(end - _FEW, start), end)
            current, rounded = block[few.start - start : end - start], columns[few].T
            current.addmm_(lower[end:stop, few].T, columns[end:stop])
            after = lower[few, few].tril(-1).T.contiguous()  # of each column, 0 where columns are not rounded yet
            by_column = zip(current, steps[few.start - start :], columns[few], after, groups[few], strict=False)
            for c, step, w, weights, group in reversed(list(by_column)):
                scale = scale_of[group]
                c.addmv_(rounded, weights)
                torch.addcdiv(whole, c, scale, out=step).clamp_(lowest_of[group], highest_of[group]).sub_(whole)
                w.addcmul_(step, scale, value=-1)
        yield slice(start, stop), steps, block.addcmul_(steps, scales[groups[start:stop]], value=-1)
