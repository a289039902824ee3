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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from ptqflow.devices.products import Kernel, faster, own
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
_TRIED_ROWS = 4096  # of a weight, to see which way is faster
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
    hessian = torch.empty_like(gram, memory_format=torch.contiguous_format)  # a transformed one is the transpose of another
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
    lowest, highest = (torch.cat([end.expand(n) for end, n in zip(ends, rows, strict=True)]).to(gram.device) for ends in ranges.T)

    kinds = [storage_dtype(target.args.symmetric) for target in targets]
    integers = [torch.empty_like(part, dtype=kind) for part, kind in zip(columns.split(rows, 1), kinds, strict=True)]
    condition_number, pivots = factor.condition_number, factor.lower.diagonal().square()
    added = filled + factor.added
    lost = torch.zeros_like(columns[0])
    grids_of = Grids(scales, *(end - zero_points + _WHOLE for end in (lowest, highest)))
    for here, steps, errors in _feed_back(columns, factor.lower, grids_of, groups, rounding.block_size):
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


class Grids(NamedTuple):
    """Of each group, [groups, out]: q = steps * scale; the ends of the steps, plus `_WHOLE`."""

    scales: Tensor
    lowest: Tensor
    highest: Tensor


def _feed_back(
    columns: Tensor, lower: Tensor, grids: Grids, groups: Tensor, block_size: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The column loop: `columns` [in, out], from the last to the first, become w - q in place; `lower` [in, in], too, is used
    up (what is above its diagonal is not looked at).

    `groups` [in]: of each column. Yields for each block of columns where it is, its steps (whole numbers as float32) and its
    errors c - q, both [block, out]. Errors of other blocks arrive at a block as one product.
    """
    lower /= lower.diagonal().clone()  # the diagonal itself becomes ones on the way
    visited = _visiting(columns.device, min(block_size, len(columns)))
    for stop in range(len(columns), 0, -block_size):
        here = slice(max(stop - block_size, 0), stop)
        block = columns[here].clone()
        add_product(block, lower[stop:, here].T, columns[stop:])
        steps = torch.empty_like(block)
        visited(block, steps, columns[here], lower[here, here], grids, groups[here])
        yield here, steps, block.addcmul_(steps, grids.scales[groups[here]], value=-1)


def visit(block: Tensor, steps: Tensor, columns: Tensor, lower: Tensor, grids: Grids, groups: Tensor) -> None:
    """Round a block of columns, all [block, out] and changed in place, the last first.

    `block`: w and what errors of other blocks add, which becomes c; `steps`: anything, which become the integers less zero
    points; `columns`: w, which become w - q. `lower` [block, block]: L over its diagonal. `groups` [block]: of each column.

    Errors arrive at a few columns as a product, then at each of these, just before it is rounded: so the loop over columns reads
    and writes little.
    """
    whole = torch.full_like(columns[0], _WHOLE)
    scale_of, lowest_of, highest_of = (ends.unbind() for ends in grids)
    of_columns = groups.tolist()
    for end in range(len(block), 0, -_FEW):
        few = slice(max(end - _FEW, 0), end)
        current, rounded = block[few], columns[few].T
        current.addmm_(lower[end:, few].T, columns[end:])
        after = lower[few, few].tril(-1).T.contiguous()  # of each column, 0 where columns are not rounded yet
        by_column = zip(current, steps[few], columns[few], after, of_columns[few], strict=True)
        for c, step, w, weights, group in reversed(list(by_column)):
            scale = scale_of[group]
            c.addmv_(rounded, weights)
            torch.addcdiv(whole, c, scale, out=step).clamp_(lowest_of[group], highest_of[group]).sub_(whole)
            w.addcmul_(step, scale, value=-1)


@cache
def _visiting(device: torch.device, block_size: int) -> Callable[..., None]:
    """`visit`, or on devices that have a kernel of their own that one, where it gives the same and is faster."""
    kernels = own(device.type, "triton_gptq")
    if kernels is None:
        return visit
    # Halves, whose sums and quotients are exact in any order, some between two integers; two grids, and part of an L.
    generator, shape = torch.Generator().manual_seed(0), (block_size, _TRIED_ROWS)
    columns = torch.randint(-32, 32, shape, generator=generator).float() / 2
    lower = torch.randint(-1, 2, (block_size, 2 * block_size), generator=generator).float()
    groups = torch.arange(block_size) // 8 % 2
    grids = (torch.tensor(ends)[:, None].expand(2, _TRIED_ROWS).contiguous() for ends in ([0.5, 2.0], [-8.0, 0.0], [7.0, 15.0]))
    scales, lowest, highest = grids
    given = [part.to(device) for part in (columns, lower, groups, scales, lowest + _WHOLE, highest + _WHOLE)]

    def changed(run: Callable[..., None], columns: Tensor, lower: Tensor, groups: Tensor, *grids: Tensor) -> tuple[Tensor, ...]:
        parts = columns.clone(), torch.empty_like(columns), columns.clone()
        run(*parts, lower[:, block_size:], Grids(*grids), groups)
        return parts

    in_steps = Kernel("columns rounded step by step", partial(changed, visit))
    in_one = Kernel(f"columns rounded by {kernels.NAME}", partial(changed, kernels.visit))
    return kernels.visit if faster(in_one, in_steps, given) is in_one else visit
