"""GPTQ (Frantar et al., 2023, algorithm 1): round column by column, feed each column's error to the columns still to come.

With H = XᵀX of the layer's inputs and U the upper Cholesky factor of (H + damping)⁻¹, for each column j in turn:

    q_j = quantize(w_j);  e = (w_j - q_j) / U_jj;  w_k -= e U_jk for all later k

Settings of Quantized-Reasoning-Models: static groups (scales from the weight before any update, groups in the original
column order), columns visited by decreasing diag H (`actorder`), columns that no input ever excites zeroed first, lazy updates.
"""

import torch
from torch import Tensor

from ptqflow.methods import rtn
from ptqflow.methods.rounding import RoundedWeight, weight_grid
from ptqflow.numerics.grid import quantize, storage_dtype
from ptqflow.numerics.linalg import inverse_cholesky
from ptqflow.recipes import Clip, GptqRounding, RtnRounding, WeightArgs


def round_weight(
    weight: Tensor,
    gram: Tensor | None,
    args: WeightArgs,
    clip: Clip,
    rounding: GptqRounding | RtnRounding,
    input_shards: int = 1,
) -> RoundedWeight:
    """Round a weight [out, in] (float32) given the Gram matrix XᵀX [in, in] (float32, any positive scale) of its inputs.

    Where the damped Hessian cannot be factored, the weight is rounded to nearest and `fallback` says so.
    Raises ValueError without a Gram matrix or with settings of another method.
    """
    if gram is None or not isinstance(rounding, GptqRounding):
        raise ValueError("gptq needs the Gram matrix of the layer's inputs and its own settings")
    diagonal = gram.diagonal()
    dead = diagonal == 0
    weight = weight.masked_fill(dead, 0)
    scale, zero_point = weight_grid(weight, args, clip, input_shards, gram)

    order = torch.arange(weight.shape[1], device=weight.device)
    if rounding.actorder:
        order = torch.argsort(diagonal, descending=True, stable=True)
    hessian = gram[order][:, order]
    # The reference writes 1 here; the mean of the others keeps the damping independent of the Hessian's scale.
    hessian.diagonal()[dead[order]] = diagonal[~dead].mean() if not bool(dead.all()) else 1.0
    factor = inverse_cholesky(hessian, rounding.dampening_frac)
    if factor is None:
        plain = rtn.round_weight(weight, gram, args, clip, rounding, input_shards)
        return RoundedWeight(plain.integers, plain.scale, plain.zero_point, None, "rtn: the Hessian could not be factored")

    group = order // (weight.shape[1] // scale.shape[1])
    columns = _feed_back(
        weight.T[order].contiguous(), factor.upper, scale.T[group], zero_point.T[group], args, rounding.block_size
    )
    integers = torch.empty_like(columns)
    integers[order] = columns
    kind = storage_dtype(args.symmetric)
    return RoundedWeight(integers.T.contiguous().to(kind), scale, zero_point.to(kind), factor.damping)


def _feed_back(columns: Tensor, upper: Tensor, scale: Tensor, zero_point: Tensor, args: WeightArgs, block_size: int) -> Tensor:
    """The column loop. `columns` [in, out] (a weight column is a row here, contiguous; overwritten), `scale` and
    `zero_point` [in, out] of each column's group. Returns the integers as float32 [in, out].
    """
    count = columns.shape[0]
    integers = torch.empty_like(columns)
    for start in range(0, count, block_size):
        stop = min(start + block_size, count)
        block, errors = columns[start:stop], torch.empty_like(columns[start:stop])
        factor = upper[start:stop, start:stop]
        for i in range(stop - start):
            j = start + i
            integers[j] = quantize(block[i], scale[j], zero_point[j], args.num_bits, args.symmetric)
            rounded = (integers[j] - zero_point[j]) * scale[j]
            errors[i] = (block[i] - rounded) / factor[i, i]
            block[i + 1 :].addr_(factor[i, i + 1 :], errors[i], alpha=-1)
        columns[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return integers
