"""Diagonal scaling of a linear's input: x' = x / s, W' = W s, so x' W'ᵀ = x Wᵀ.

1 / s is folded into whatever makes the input: the norm before the linears, or the rows (and bias) of the linear before them
(up_proj before down_proj, since gate * up is linear in up; v_proj before o_proj, since attention averages values). With
grouped-query attention several query heads of o_proj's input carry the channels of one value head, so they share its scale.

A scale is [in], or [kv_heads, query heads of each, head_dim] with equal values along the second dimension.
"""

import torch
from torch import Tensor


def columns(scale: Tensor) -> Tensor:
    """The scale of each input column, [in]."""
    return scale.flatten()


def rows(scale: Tensor) -> Tensor:
    """The scale of each output row of the linear before: [in], or [kv_heads * head_dim] where query heads share."""
    return scale[:, 0].flatten() if scale.dim() == 3 else scale


def by_value_head(x: Tensor, query_heads: int, head_dim: int, how: str) -> Tensor:
    """A statistic x [in] of o_proj's input as [kv_heads, query_heads, head_dim], equal for the query heads of a value head.

    `query_heads`: how many share a value head. `how`: their `mean` or their `max` is taken.
    """
    heads = x.view(-1, query_heads, head_dim)
    shared = heads.mean(1, keepdim=True) if how == "mean" else heads.amax(1, keepdim=True)
    return shared.expand_as(heads).contiguous()


def apply_to_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """W' = W s: columns of a weight [out, in] times s, in float32."""
    return weight.float() * columns(scale)


def apply_to_gram(gram: Tensor, scale: Tensor) -> Tensor:
    """Gram matrix of x / s from that of x: D⁻¹ G D⁻¹ with D = diag(s)."""
    return gram / columns(scale) / columns(scale).unsqueeze(1)


def fold_into_norm(norm: Tensor, scale: Tensor, offset: float = 0.0) -> Tensor:
    """The norm's weight w [in] with 1 / s folded in, in the norm's own dtype: (offset + w) / s - offset.

    `offset`: 1 of norms that multiply by 1 + w. Then in float64: what is left of 1 is small.
    """
    if offset:
        return ((norm.double() + offset) / scale.double() - offset).to(norm.dtype)
    return (norm.float() / scale).to(norm.dtype)


def fold_into_rows(tensor: Tensor, scale: Tensor) -> Tensor:
    """The weight [out, in] or bias [out] of the linear before with 1 / s folded into its last rows, in float32.

    They are all its rows, unless several linears are fused, of which the last makes the input.
    """
    scale = rows(scale)
    divisor = scale.unsqueeze(1) if tensor.dim() == 2 else scale
    first = len(tensor) - len(scale)
    return torch.cat([tensor[:first].float(), tensor[first:].float() / divisor]) if first else tensor.float() / divisor


def representable(scale: Tensor, norm: Tensor, offset: float = 0.0) -> Tensor:
    """The scale nearest to `scale` that the norm can hold exactly once folded.

    A bfloat16 norm rounds w / s, and x is then divided by something else than s; weights must be multiplied by that something.
    What is beyond the numbers of the dtype (float16 ends at 65504) becomes the last one. Channels where the norm is zero, and
    norms of float32 or more, keep `scale`. Norms that multiply by 1 + w (`offset` 1) lose digits in any dtype as 1 + w is made
    small, and none may vanish.
    """
    if offset:
        return _representable_beside(scale, norm, offset)
    if torch.finfo(norm.dtype).bits >= 32:
        return scale
    weight, held = norm.float(), torch.finfo(norm.dtype)
    folded = (weight / scale).clamp(held.min, held.max).to(norm.dtype).float()
    folded = torch.where(folded == 0, weight.sign() * held.smallest_normal, folded)
    return torch.where(weight == 0, scale, weight / folded)


def _representable_beside(scale: Tensor, norm: Tensor, offset: float) -> Tensor:
    weight, held = norm.double() + offset, torch.finfo(norm.dtype)
    folded = (weight / scale.double() - offset).clamp(held.min, held.max).to(norm.dtype)
    beside = (weight.sign() * held.eps - offset).to(norm.dtype)  # where the norm would be 0: a number on the side of its sign
    folded = torch.where(folded == -offset, beside, folded)
    return torch.where(weight == 0, scale.double(), weight / (folded.double() + offset)).to(scale.dtype)
