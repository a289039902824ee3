"""Round to nearest: q = clamp(round(w / s) + z), half to even. The floor that every other method must beat."""

from torch import Tensor

from ptqflow.methods.rounding import RoundedWeight, weight_grid
from ptqflow.numerics.grid import quantize, storage_dtype
from ptqflow.recipes import Clip, GptqRounding, RtnRounding, WeightArgs


def round_weight(
    weight: Tensor,
    gram: Tensor | None,
    args: WeightArgs,
    clip: Clip,
    rounding: RtnRounding | GptqRounding,
    input_shards: int = 1,
) -> RoundedWeight:
    """Round a weight [out, in] (float32). Rounding itself needs no data: `gram` serves clip `search` alone."""
    scale, zero_point = weight_grid(weight, args, clip, input_shards, gram)
    groups = weight.unflatten(1, (scale.shape[1], -1))
    integers = quantize(groups, scale.unsqueeze(-1), zero_point.unsqueeze(-1), args.num_bits, args.symmetric).flatten(1)
    kind = storage_dtype(args.symmetric)
    return RoundedWeight(integers.to(kind), scale, zero_point.to(kind))
