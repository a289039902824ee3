"""How far a quantized weight is from the float one, and how far its bits let it be.

Two measures. As a whole, |W - W'| / |W| (Frobenius): rounding to nearest is off by 0.29 steps of the grid (1/√12) in the mean
square, and clipping exchanges a part of that for a finer step; GPTQ, which answers for outputs and not for weights, is off by
0.3 to 1 where calibration leaves it free to move (`Rounding.steps`). Group by group, how many steps W' leaves the grid that the
full range of W has, which ends near that range, unless it is tiny or nothing (a pruned head, which GPTQ may still put something
in). What is beyond `steps` or `BEYOND` steps of that grid was not rounded from this weight: a scale, a dtype, an order or the
model was changed in between.

Quantize says where it aimed at another weight than W: columns that it rounded as 0 (`unseen`) are 0 here, too, and by what it
corrected (`methods.asymmetric`) W' may be further away, as a whole and at the ends of a range. A clip that weighs
errors by inputs may cut off what no large input reads (`Clip.most_lost`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ptqflow.checkpoints.layout import WEIGHT, QuantizedLinear
from ptqflow.modeling import online
from ptqflow.modeling.anatomy import Architecture, block_prefix
from ptqflow.modeling.qparams import transformed
from ptqflow.modeling.shapes import shards_of
from ptqflow.numerics.grid import group_weight, integer_range, scale_and_zero_point
from ptqflow.numerics.inverse import inverse
from ptqflow.recipes import Recipe
from ptqflow.transforms import kronecker

BEYOND = 2.0  # a grid of a clipped range has other zero points and rounded scales, which move an end by half a step each


class Distance(NamedTuple):
    """|W - W'| / |W|, the most of it that is taken for rounding, and the steps by which W' leaves the grid of its group in W."""

    value: float
    limit: float
    beyond: float


def distance(
    weight: Tensor,
    linear: QuantizedLinear,
    recipe: Recipe,
    qparams: Mapping[str, Tensor],
    read: Tensor,
    architecture: Architecture,
) -> Distance | None:
    """Of the weight `read` [out, in] from a checkpoint to the float model's `weight`, transformed as by the recipe.

    None where the float weight cannot be told: a transform of o_proj's input while the model runs (FlatQuant) folds what it does
    within heads into v_proj and o_proj, and keeps no record of it.
    """
    scheme, args = linear.scheme, linear.weights
    if "o" in recipe.transform_of(scheme.layer).online_sites and scheme.linear in ("v_proj", "o_proj"):
        return None
    exact = transformed(linear.prefix + WEIGHT, weight, qparams, architecture).double()
    owner = f"{block_prefix(scheme.layer)}{online.owner(architecture, architecture.site_of(scheme.linear))}"
    if (left := qparams.get(f"{owner}.left_trans")) is not None:
        right = qparams.get(f"{owner}.right_trans")
        exact = kronecker.apply(exact, inverse(left.double()).mT, None if right is None else inverse(right.double()).mT)
    if (unseen := qparams.get(f"{linear.prefix}.unseen")) is not None:
        exact = exact.masked_fill(unseen, 0)
    groups, found = (
        group_weight(w.float(), args.strategy, args.group_size, shards_of(recipe, scheme.linear)) for w in (exact, read)
    )
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    moved, most = qparams[f"{linear.prefix}.correction"].tolist() if f"{linear.prefix}.correction" in qparams else (0.0, 0.0)
    if args.symmetric:
        low, high = -torch.maximum(-low, high), torch.maximum(-low, high)
    step, _ = scale_and_zero_point(low, high, args.grid)
    low, high = low - most, high + most
    scale, zero_point = scale_and_zero_point(low, high, args.grid)
    first, last = ((end - zero_point) * scale for end in integer_range(args.num_bits, args.symmetric))
    low, high = torch.minimum(low, first), torch.maximum(high, last)
    beyond = torch.maximum(low - found.amin(-1), found.amax(-1) - high) / scale
    norm = exact.norm().clamp(min=torch.finfo(torch.float32).tiny)
    allowed = recipe.rounding.steps * (step.double().square().mean() * exact.numel()).sqrt()
    clip = recipe.clip_of(*architecture.parts(scheme.linear))
    limit = max((allowed / norm).item(), clip.most_lost if clip else 0.0) + moved / norm.item()
    return Distance(((read.double() - exact).norm() / norm).item(), limit, beyond.max().item())
