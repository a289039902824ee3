"""AWQ (Lin et al., 2024, section 3.2): scale up the weight columns that large activations read, so that rounding spares them.

    s = mean|x|^r,  s >= 1e-4,  s / sqrt(max s min s);  W' = Q(W s) / s;  r of {0, 1/n_grid, ...} with the least |X (W - W')ᵀ|²

The recipe of llm-awq as Quantized-Reasoning-Models trims it. r = 0 is round to nearest, and a later point wins only by strict
improvement, so scaling never loses to it. Scales are searched as the checkpoint will hold them: what a bfloat16 norm rounds them
by moves weights to other steps. Each site is searched with the other sites unscaled.

One difference: the reference measures the output of the attention or the MLP for q, k, v and gate, up. We sum the errors of the
linears' own outputs, which the Gram matrix gives without a forward pass, |X ΔWᵀ|² = tr(ΔW XᵀX ΔWᵀ), all grid points at once, and
on a sample of rows where that decides.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ptqflow.errors import ArtifactError
from ptqflow.methods.scaling import SiteInputs
from ptqflow.methods.transforms.awq_settings import AwqTransform
from ptqflow.numerics.gram import LeadingPart, LowerHalf
from ptqflow.numerics.grid import fake_quantize_groups, group_weight, ungroup_weight
from ptqflow.numerics.pieces import at_once
from ptqflow.scheme import WeightArgs

_Batch = Sequence[Tensor | slice]  # rows of each weight
_FLOOR = 1e-4
_FEWEST_ROWS = 8  # at once, so that wide Gram matrices are not read for every row
_FIRST_SHARE = 1 / 32  # of the rows, in the first batch
_FEWEST_SAMPLES = 64  # rows before any point drops out
_STANDARD_ERRORS = 4.0  # of certainty with which it does
_HEAVY = 8.0  # times the mean of what rows may lose: measured for sure
_MOST_HEAVY = 1 / 64  # of the rows
_INDIFFERENCE = 0.002  # of the leader's loss: a gain not worth measuring


def skipped(site: str, query_heads: int, settings: AwqTransform) -> str | None:
    """Why a site is left alone, or None. The reference scales o_proj only where each query head has its own value head."""
    if site == "o" and query_heads > 1 and not settings.gqa_vo:
        return f"awq: input not scaled, {query_heads} query heads share a value head (gqa_vo: false)"
    return None


def smoothing_scale(site: SiteInputs, settings: AwqTransform) -> Tensor | None:
    """The best s [in] (float32) of one site, of those that can be held; None where none of its linears is quantized."""
    quantized = [(weight, args) for weight, args in zip(site.weights, site.args, strict=True) if args is not None]
    if not quantized or site.gram is None:
        return None
    candidates = site.held(scale_candidates(site, settings))
    return candidates[best_point(quantized, site.gram, candidates, site.input_shards)]


def best_point(quantized: Sequence[tuple[Tensor, WeightArgs]], gram: Tensor, scales: Tensor, input_shards: int = 1) -> int:
    """Which s of `scales` [points, in] has the least |X (W - Q(W s) / s)ᵀ|² summed over weights [out_i, in]; of ties the first.

    Successive elimination: rows are measured in batches, the heaviest and a fixed random part first, then as many again as
    before. A point drops out after a batch when, four standard errors granted, its mean loss is above 99.8 % of the leader's; it
    ends when one is left. So the loss of the point that wins is the least, or but for unlikely samples within 0.2 % of it. After
    the first batch, rough losses of all rows (`LeadingPart`) join in, and only what they miss is estimated from the rows that
    were measured. Raises ArtifactError where no point has a finite loss.
    """
    exact, total = LowerHalf(gram), sum(len(weight) for weight, _ in quantized)
    points = torch.arange(len(scales), device=scales.device)
    heavy, batches = _row_batches(quantized, gram.diagonal(), input_shards)

    def measured(batches: Iterable[_Batch], by: LowerHalf | LeadingPart) -> Tensor:
        rows = ((weight[some], args) for batch in batches for (weight, args), some in zip(quantized, batch, strict=True))
        return torch.cat([row_losses(weight, by, args, scales[points], input_shards) for weight, args in rows], 1)

    losses, rough = measured([heavy], exact), gram.new_zeros(len(scales), total)
    sure = losses.shape[1]
    for number, batch in enumerate(batches):
        losses = torch.cat([losses, measured([batch], exact)], 1)
        points, losses, rough = _survivors(points, losses, rough, sure)
        if number == 0 and len(points) > 1:
            rough = measured([heavy, *batches], LeadingPart(gram))
            points, losses, rough = _survivors(points, losses, rough, sure)
        if len(points) == 1:
            break
    return int(points[0])


def _survivors(points: Tensor, losses: Tensor, rough: Tensor, sure: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which of `points` can still win; with their `losses` [points, rows measured] and `rough` ones [points, rows].

    The first `sure` rows speak for themselves alone; the others measured, for all others.
    """
    finite = losses.isfinite().all(1) & rough.isfinite().all(1)
    points, losses, rough = points[finite], losses[finite], rough[finite]
    if not len(points):
        raise ArtifactError(
            "awq: no output error of rounded weights is finite, so the inputs of a linear overflow float32; "
            "use another calibration set or model"
        )
    count, total = losses.shape[1] - sure, rough.shape[1] - sure
    missed = losses[:, sure:] - rough[:, sure : sure + count]
    known = losses[:, :sure].sum(1, dtype=torch.float64) / total
    mean = known + rough[:, sure:].mean(1, dtype=torch.float64) + missed.mean(1, dtype=torch.float64)
    leader = int(mean.argmin())
    surviving = torch.zeros_like(finite[finite])
    if count < total:  # of a finite population, of which the sample is a part
        margin = _STANDARD_ERRORS * (missed - missed[leader]).std(1) * ((1 - count / total) / count) ** 0.5
        surviving = mean - margin < (1 - _INDIFFERENCE) * mean[leader]
    surviving[leader] = True
    return points[surviving], losses[surviving], rough[surviving]


def _row_batches(
    quantized: Sequence[tuple[Tensor, WeightArgs]], diagonal: Tensor, input_shards: int
) -> tuple[_Batch, list[_Batch]]:
    """Which rows of all weights are the heaviest, and the others in random order, in batches. `diagonal` [in]: of XᵀX.

    None is heavy, and all run at once, where they are few, or where rows share a scale.
    """
    total = sum(len(weight) for weight, _ in quantized)
    if total < 2 * _FEWEST_SAMPLES or any(args.strategy == "tensor" for _, args in quantized):
        return [slice(0) for _ in quantized], [[slice(None) for _ in quantized]]
    heavy = _heavy(quantized, diagonal, input_shards)
    random = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(weight), generator=random).to(weight.device) for weight, _ in quantized]
    others = [order[~mask[order]] for order, mask in zip(orders, heavy, strict=True)]
    share = max(_FIRST_SHARE, _FEWEST_SAMPLES / sum(map(len, others)))
    batches: list[_Batch] = []
    start = 0.0
    while start < 1:
        stop = min(1.0, max(share, 2 * start))
        batches.append([order[math.ceil(start * len(order)) : math.ceil(stop * len(order))] for order in others])
        start = stop
    return [mask.nonzero().flatten() for mask in heavy], batches


def _heavy(quantized: Sequence[tuple[Tensor, WeightArgs]], diagonal: Tensor, input_shards: int) -> list[Tensor]:
    """Which rows [out_i] of the weights may lose many times the mean: random others cannot speak for them.

    A row's loss is near that of independent rounding errors, sum over its groups of step² · sum of diag XᵀX.
    """
    expected = []
    for weight, args in quantized:
        groups = group_weight(weight, args.strategy, args.group_size, input_shards)
        steps = (groups.amax(-1) - groups.amin(-1)) / 2**args.num_bits
        expected.append(steps.square() @ diagonal.view(groups.shape[1], -1).sum(1))
    joined = torch.cat(expected)
    least = joined.topk(max(1, int(_MOST_HEAVY * len(joined)))).values[-1]
    limit = _HEAVY * joined.mean()  # fewer than 1 / 8 of all are above; none where all are 0, or infinite
    return [(found >= least) & (found > limit) for found in expected]


def scale_candidates(site: SiteInputs, settings: AwqTransform) -> Tensor:
    """s for every grid point, [points, in]; the first is all ones (with `duo_scaling` as an extra point).

    Raises ValueError without mean|x|.
    """
    if site.mean_abs is None:
        raise ValueError("awq needs mean|x| of the inputs")
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


def row_losses(weight: Tensor, gram: LowerHalf | LeadingPart, args: WeightArgs, scales: Tensor, input_shards: int = 1) -> Tensor:
    """|X (w - Q(w s) / s)ᵀ|² of each row w of `weight` [out, in] for each s of `scales` [points, in]: [points, out] float32."""
    losses = weight.new_zeros(len(scales), len(weight))
    if not losses.numel():
        return losses
    points, rows = len(scales), max(_FEWEST_ROWS, 2 * at_once(weight) // scales.numel())
    if args.strategy == "tensor":  # one scale for all rows
        points, rows = 1, len(weight)
    for start in range(0, len(weight), rows):
        part = weight[start : start + rows]
        for i in range(0, len(scales), points):
            scale = scales[i : i + points].unsqueeze(1)
            scaled = (part * scale).flatten(0, 1)  # [points * rows, in]
            groups = group_weight(scaled, args.strategy, args.group_size, input_shards)
            rounded = ungroup_weight(fake_quantize_groups(groups, args.grid), scaled.shape)
            lost = rounded.sub_(scaled).view(-1, *part.shape).mul_(scale.reciprocal())
            losses[i : i + points, start : start + rows] = gram.quadratic_forms(lost.flatten(0, 1)).view(-1, len(part))
    return losses
