"""SmoothQuant (Xiao et al., 2023, eq. 4): move outliers from activations, where they are hard, into weights, where they are easy.

    s_j = max|x_j|^a / max|W_j|^(1-a);  x' = x / s;  W' = W s

As in Quantized-Reasoning-Models: max|W_j| over all linears that share the input, at least 1e-5; s at least 1e-5; only inputs that
a norm makes, unless the recipe's `sites` say more. Float32, not bfloat16.
"""

import torch
from torch import Tensor

from ptqflow.methods.scaling import SiteInputs
from ptqflow.methods.transforms.smoothquant_settings import SmoothQuantTransform

_FLOOR = 1e-5


def skipped(site: str, query_heads: int, settings: SmoothQuantTransform) -> str | None:
    """Why a site is left alone ("" where the recipe does not name it), or None. Shared value heads are no reason."""
    return None if site in settings.sites else ""


def smoothing_scale(site: SiteInputs, settings: SmoothQuantTransform) -> Tensor:
    """s [in] (float32) of one site. Raises ValueError without max|x|."""
    if site.absmax is None:
        raise ValueError("smoothquant needs max|x| of the inputs")
    strength = settings.smoothing_strength
    largest = torch.stack([weight.abs().amax(0) for weight in site.weights]).amax(0)
    absmax, largest = site.share(site.absmax, "max"), site.share(largest, "max")
    return (absmax.pow(strength) / largest.clamp(min=_FLOOR).pow(1 - strength)).clamp(min=_FLOOR)
