"""AWQ (Lin et al., 2024, section 3.2): scale up the weight columns that large activations read, so that rounding spares them.

    s = mean|x|^r,  s >= 1e-4,  s / sqrt(max s min s);  W' = Q(W s) / s;  r of {0, 1/n_grid, ...} with the least |X (W - W')ᵀ|²

The recipe of llm-awq as Quantized-Reasoning-Models trims it. r = 0 is round to nearest, and a later point wins only by strict
improvement, so scaling never loses to it. Each site is searched with the other sites unscaled.

One difference: the reference measures the output of the attention or the MLP for q, k, v and gate, up. We sum the errors of the
linears' own outputs, which the Gram matrix gives without a forward pass, |X ΔWᵀ|² = tr(ΔW XᵀX ΔWᵀ), all grid points at once.
"""

import torch
from torch import Tensor

from ptqflow.methods.scaling import SiteInputs
from ptqflow.numerics.grid import fake_quantize_groups, group_weight, ungroup_weight
from ptqflow.recipes import AwqTransform, WeightArgs

_FLOOR = 1e-4
_ELEMENTS_AT_ONCE = 1 << 22  # of scaled weights: 16 MB
_COLUMNS = 256  # of the Gram matrix at once, to use its symmetry


def skipped(site: str, query_heads: int, settings: AwqTransform) -> str | None:
    """Why a site is left alone, or None. The reference scales o_proj only where each query head has its own value head."""
    if site == "o" and query_heads > 1 and not settings.gqa_vo:
        return f"awq: input not scaled, {query_heads} query heads share a value head (gqa_vo: false)"
    return None


def smoothing_scale(site: SiteInputs, settings: AwqTransform) -> Tensor | None:
    """The best s [in] (float32) of one site; None where none of its linears is quantized."""
    quantized = [(weight, args) for weight, args in zip(site.weights, site.args, strict=True) if args is not None]
    if not quantized or site.gram is None:
        return None
    candidates = scale_candidates(site, settings)
    losses = torch.zeros(len(candidates), dtype=torch.float64, device=site.gram.device)
    for weight, args in quantized:
        losses += output_losses(weight, site.gram, args, candidates, site.input_shards)
    if not bool(torch.isfinite(losses[0])):
        raise ValueError("the output error of plain rounding is not finite: weights or calibration inputs are not")
    return candidates[int(losses.nan_to_num(nan=torch.inf).argmin())]  # of equal losses the first


def scale_candidates(site: SiteInputs, settings: AwqTransform) -> Tensor:
    """s for every grid point, [points, in]; the first is all ones (with `duo_scaling` as an extra point)."""
    exponents = torch.arange(settings.n_grid, device=site.mean_abs.device).unsqueeze(1) / settings.n_grid
    scale = site.share(site.mean_abs, "mean").pow(exponents)
    if settings.duo_scaling:
        scale = scale / (site.share(_weight_share(site), "mean").pow(1 - exponents) + _FLOOR)
    scale = scale.clamp(min=_FLOOR)
    scale = scale / (scale.amax(1, keepdim=True) * scale.amin(1, keepdim=True)).sqrt()
    return torch.cat([torch.ones_like(scale[:1]), scale]) if settings.duo_scaling else scale


def _weight_share(site: SiteInputs) -> Tensor:
    """mean over rows of |w| / max|w| of its group, [in] (AutoAWQ)."""
    shares = []
    for weight, args in zip(site.weights, site.args, strict=True):
        if args is not None:
            groups = group_weight(weight.abs(), args.strategy, args.group_size, site.input_shards)
            shares.append(ungroup_weight(groups / (groups.amax(-1, keepdim=True) + 1e-6), weight.shape))
    return torch.cat(shares).mean(0)


def output_losses(weight: Tensor, gram: Tensor, args: WeightArgs, scales: Tensor, input_shards: int = 1) -> Tensor:
    """|X (W - Q(W s) / s)ᵀ|² for each s of `scales` [points, in], as float64 [points]. weight [out, in], gram [in, in]."""
    points, width = scales.shape
    losses = torch.zeros(points, dtype=torch.float64, device=weight.device)
    rows = max(1, _ELEMENTS_AT_ONCE // (points * width))
    if args.strategy == "tensor":  # one scale for all rows
        points, rows = 1, weight.shape[0]
    for part in weight.split(rows):
        for i in range(0, len(scales), points):
            scale = scales[i : i + points].unsqueeze(1)
            scaled = (part * scale).flatten(0, 1)  # [points * rows, in]
            groups = group_weight(scaled, args.strategy, args.group_size, input_shards)
            rounded = ungroup_weight(fake_quantize_groups(groups, args.num_bits, args.symmetric), scaled.shape)
            lost = rounded.view(-1, *part.shape).div_(scale).sub_(part)
            losses[i : i + points] += _energies(lost.flatten(0, 1), gram).view(-1, len(part)).sum(1, dtype=torch.float64)
    return losses


def _energies(lost: Tensor, gram: Tensor) -> Tensor:
    """|X wᵀ|² of each row w of `lost` [rows, in]: w XᵀX wᵀ, from the lower half of the symmetric XᵀX [in, in]."""
    energies = lost.new_zeros(len(lost))
    for start in range(0, lost.shape[1], _COLUMNS):
        stop = start + _COLUMNS
        own, later = lost[:, start:stop], lost[:, stop:]
        product = torch.addmm(own @ gram[start:stop, start:stop], later, gram[stop:, start:stop], alpha=2)
        energies += product.mul_(own).sum(1)
    return energies
