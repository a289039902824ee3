"""Diagonal scaling between a norm and the linears that read it: x' = x / s, W' = W s, so x' W'ᵀ = x Wᵀ."""

import torch
from torch import Tensor


def apply_to_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """W' = W s: columns of a weight [out, in] times s [in], in float32."""
    return weight.float() * scale


def apply_to_gram(gram: Tensor, scale: Tensor) -> Tensor:
    """Gram matrix of x / s from that of x: D⁻¹ G D⁻¹ with D = diag(s)."""
    return gram / scale / scale.unsqueeze(1)


def fold_into_norm(norm: Tensor, scale: Tensor) -> Tensor:
    """The norm's weight [in] with 1 / s folded in, in the norm's own dtype."""
    return (norm.float() / scale).to(norm.dtype)


def invert(scale: Tensor) -> Tensor:
    """The scaling that undoes `scale`."""
    return scale.reciprocal()


def representable(scale: Tensor, norm: Tensor) -> Tensor:
    """The scale nearest to `scale` that the norm can hold exactly once folded.

    A bfloat16 norm rounds w / s, and x is then divided by something else than s; weights must be multiplied by that something.
    Float32 norms, and channels where the norm is zero, keep `scale`.
    """
    if norm.dtype == torch.float32:
        return scale
    folded = fold_into_norm(norm, scale).float()
    return torch.where(folded == 0, scale, norm.float() / folded)
