"""What a method that scales the inputs of linears is told about a site; it offers `smoothing_scale` and `skipped`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ptqflow.scheme import WeightArgs


@dataclass(frozen=True)
class SiteInputs:
    """A distinct linear input of a block, before any scaling. All tensors on one device, float32.

    mean_abs, absmax: mean|x| and max|x| [in], if known. weights: [out_i, in] of each linear that reads it, with the grid
    of each in `args` (None: not quantized). gram: XᵀX [in, in], if any of them is quantized. share(v, how): a statistic v [in]
    made equal (by `mean` or `max`) for channels that must have one scale. input_shards: as in the recipe, 1 where not split.
    held(s): scales [..., in] as they can be folded into what makes the input, which rounds where it is a norm of few digits.
    """

    mean_abs: Tensor | None
    absmax: Tensor | None
    weights: Sequence[Tensor]
    args: Sequence[WeightArgs | None]
    gram: Tensor | None
    share: Callable[[Tensor, str], Tensor]
    input_shards: int = 1
    held: Callable[[Tensor], Tensor] = lambda scale: scale
