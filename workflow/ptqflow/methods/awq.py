"""AWQ (Lin et al., 2024, section 3.2): scale up the weight columns that large activations read, so that rounding spares them.

    s = mean|x|^r,  s >= 1e-4,  s / sqrt(max s min s);  W' = Q(W s) / s;  r of {0, 1/n_grid, ...} with the least |X (W - W')ᵀ|²

The recipe of llm-awq as Quantized-Reasoning-Models trims it. r = 0 is round to nearest, and a later point wins only by strict
improvement, so scaling never loses to it. Each site is searched with the other sites unscaled.

One difference: the reference measures the output of the attention or the MLP for q, k, v and gate, up. We sum the errors of the
linears' own outputs, which the Gram matrix gives without a forward pass, |X ΔWᵀ|² = tr(ΔW XᵀX ΔWᵀ), all grid points at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ptqflow.methods.scaling import SiteInputs
from ptqflow.numerics.grid import fake_quantize_groups, group_weight, ungroup_weight
from ptqflow.recipes import AwqTransform, WeightArgs

_FLOOR = 1e-4
_ELEMENTS_AT_ONCE = 1 << 20  # of scaled weights: 4 MB, which stay in a CPU's cache
_FEWEST_ROWS = 8  # at once, so that wide Gram matrices are not read for every row
_COLUMNS = 256  # of the Gram matrix at once at least, to use its symmetry


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
    losses = searched_losses(quantized, site.gram, candidates, site.input_shards)
    if not bool(torch.isfinite(losses).any()):
        raise ValueError("no output error of rounded weights is finite: weights or calibration inputs are not")
    return candidates[int(losses.argmin())]  # of equal losses the first


def searched_losses(
    quantized: Sequence[tuple[Tensor, WeightArgs]], gram: Tensor, scales: Tensor, input_shards: int = 1
) -> Tensor:
    """|X (W - Q(W s) / s)ᵀ|² summed over weights [out_i, in], for each s of `scales` [points, in]: float64 [points].

    Infinite for points that cannot be the least: their first rows alone lose more than all rows do at the best point. That point
    is guessed from the first rows of the first weight, so that it is complete before the others; the guess changes no result.
    """
    (weight, args), others = quantized[0], quantized[1:]
    rows = weight.shape[0] if args.strategy == "tensor" else _rows_at_once(scales)
    losses = output_losses(weight[:rows], gram, args, scales, input_shards).nan_to_num(nan=torch.inf, posinf=torch.inf)
    rest = [(weight[rows:], args), *others]
    guess = int(losses.argmin())
    for weight, args in rest:
        losses[guess] += output_losses(weight, gram, args, scales[guess : guess + 1], input_shards)[0]
    alive = torch.arange(len(scales), device=scales.device)
    alive = alive[alive != guess]
    for weight, args in rest:
        for part in weight.split(len(weight) or 1 if args.strategy == "tensor" else _rows_at_once(scales)):
            hopeful = losses[alive] <= losses[guess]
            losses[alive[~hopeful]] = torch.inf
            alive = alive[hopeful]
            losses[alive] += output_losses(part, gram, args, scales[alive], input_shards)
    return losses.nan_to_num(nan=torch.inf, posinf=torch.inf)


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
    losses = torch.zeros(len(scales), dtype=torch.float64, device=weight.device)
    if not weight.numel() or not len(scales):
        return losses
    points, rows = len(scales), _rows_at_once(scales)
    if args.strategy == "tensor":  # one scale for all rows
        points, rows = 1, weight.shape[0]
    for part in weight.split(rows):
        for i in range(0, len(scales), points):
            scale = scales[i : i + points].unsqueeze(1)
            scaled = (part * scale).flatten(0, 1)  # [points * rows, in]
            groups = group_weight(scaled, args.strategy, args.group_size, input_shards)
            rounded = ungroup_weight(fake_quantize_groups(groups, args.grid), scaled.shape)
            lost = rounded.view(-1, *part.shape).div_(scale).sub_(part)
            losses[i : i + points] += _energies(lost.flatten(0, 1), gram).view(-1, len(part)).sum(1, dtype=torch.float64)
    return losses


def _rows_at_once(scales: Tensor) -> int:
    """Rows of a weight that are rounded at all points at once."""
    return max(_FEWEST_ROWS, _ELEMENTS_AT_ONCE // scales.numel())


def _energies(lost: Tensor, gram: Tensor) -> Tensor:
    """|X wᵀ|² of each row w of `lost` [rows, in]: w XᵀX wᵀ, from the lower half of the symmetric XᵀX [in, in]."""
    energies = lost.new_zeros(len(lost))
    width = max(_COLUMNS, lost.shape[1] // 8)
    for start in range(0, lost.shape[1], width):
        stop = start + width
        own, later = lost[:, start:stop], lost[:, stop:]
        product = torch.addmm(own @ gram[start:stop, start:stop], later, gram[stop:, start:stop], alpha=2)
        energies += product.mul_(own).sum(1)
    return energies
