"""Round to nearest: q = clamp(round(w / s) + z), half to even. The floor that every other method must beat."""

from collections.abc import Sequence

from torch import Tensor

from ptqflow.method import Rounding
from ptqflow.methods.rounding import RoundedWeight, Target, weight_grid
from ptqflow.numerics.grid import quantize, storage_dtype


def round_weights(
    targets: Sequence[Target], gram: Tensor | None, rounding: Rounding, input_shards: int = 1
) -> list[RoundedWeight]:
    """Round weights that share an input. Rounding itself needs no data: `gram` serves clips alone."""
    return [_round(target, gram, input_shards) for target in targets]


def _round(target: Target, gram: Tensor | None, input_shards: int) -> RoundedWeight:
    weight, args = target.weight, target.args
    scale, zero_point = weight_grid(weight, args, target.clip, input_shards, gram)
    groups = weight.unflatten(1, (scale.shape[1], -1))
    integers = quantize(groups, scale.unsqueeze(-1), zero_point.unsqueeze(-1), args.grid).flatten(1)
    kind = storage_dtype(args.symmetric)
    return RoundedWeight(integers.to(kind), scale, zero_point.to(kind))
