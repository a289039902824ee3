"""SmoothQuant (Xiao et al., 2023, eq. 4): move outliers from activations, where they are hard, into weights, where they are easy.

    s_j = max|x_j|^a / max|W_j|^(1-a);  x' = x / s;  W' = W s

s is folded into the norm before the linears, so only the inputs of q, k, v and of gate, up are smoothed. As in
Quantized-Reasoning-Models: max|W_j| over all linears that share the input, at least 1e-5; s at least 1e-5. Float32, not bfloat16.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ptqflow.recipes import SmoothQuantTransform

SITES = ("qkv", "gate_up")
_FLOOR = 1e-5


def smoothing_scale(absmax: Tensor, weights: Sequence[Tensor], settings: SmoothQuantTransform) -> Tensor:
    """s [in] (float32) of one site: `absmax` [in] is max|x| of the float model, `weights` the [out_i, in] of its linears."""
    strength = settings.smoothing_strength
    columns = torch.stack([w.float().abs().amax(0) for w in weights]).amax(0)
    return (absmax.float().pow(strength) / columns.clamp(min=_FLOOR).pow(1 - strength)).clamp(min=_FLOOR)
