"""Static grids: of linear inputs, one scale per tensor, from max|x| of the calibration set; of the cache, from its ranges."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ptqflow.methods.running import Running
from ptqflow.modeling import dimensions
from ptqflow.modeling.anatomy import smoothing_key
from ptqflow.modeling.blocks import batches
from ptqflow.modeling.cache import CacheRanges, attach
from ptqflow.numerics.grid import integer_range
from ptqflow.transforms import diagonal

_FLOOR = 1e-5


def static_input_scales(run: Running, absmax: Mapping[str, Tensor], scales: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`{linear}.input_scale` [1] of each linear of the block whose input the recipe quantizes statically.

    `absmax`: max|x| [in] of the float model by site; `scales`: the scalings of the block's sites by `smoothing_key`, which divide
    x. Scales are float32 numbers that the dtype of its weights, in which checkpoints hold them, can hold, and so are their
    inverses, by which engines multiply x: in float16 of no scale below 1.53e-5.
    """
    found, architecture, layer = {}, run.architecture, run.layer
    dtype = run.tensors[f"{architecture.linear_prefix(layer, 'o_proj')}.weight"].dtype
    limits = torch.finfo(dtype)
    least = 1 / limits.max + limits.tiny * limits.eps  # the inverse of the largest number, and one number up
    for site in architecture.sites:
        for linear in site.linears:
            args = run.recipe.input_activations(layer, architecture.role(linear))
            if args is None or args.dynamic:
                continue
            largest = absmax[site.name].float().cpu()
            if (scale := scales.get(smoothing_key(layer, site.name))) is not None:
                largest = largest / diagonal.columns(scale).cpu()
            highest = integer_range(args.num_bits, symmetric=True)[1]
            step = (largest.max().clamp(min=_FLOOR) / highest).clamp(min=least)
            found[f"{architecture.linear_prefix(layer, linear)}.input_scale"] = step.to(dtype).float().view(1)
    return found


def ranges_over_positions(run: Running, hidden: Tensor, positions: int) -> CacheRanges:
    """Ranges of a static cache with the sequences [sequences, tokens, hidden] spread evenly over the first `positions`.

    Where they are too few to cover these, they are taken again. Attention knows distances alone, so what the block makes of a
    sequence is the same wherever it begins.
    """
    cache = run.recipe.scheme.kv_cache
    assert cache is not None
    ranges = CacheRanges(cache)
    block = run.blocks.build(run.layer, run.tensors, run.dtype)
    attach(block, ranges)
    positions = max(run.tokens, min(positions, dimensions.positions(run.blocks.config.to_dict()) or positions))
    count = max(len(hidden), math.ceil(positions / run.tokens))
    starts = torch.linspace(0, positions - run.tokens, count).round().int().tolist()
    for part in batches(count, run.tokens):
        run.forward(block, hidden[torch.arange(part.start, part.stop) % len(hidden)], starts[part])
    return ranges
