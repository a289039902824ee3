"""Choose the clip of each linear by its error on calibration sequences that no candidate has seen.

Which clip is best differs between models and linears, and the error under the inputs that ranges and rounding were fitted to
does not tell. So each alternative rounds the weight W, by the recipe's own rounding, under H of the other sequences, and loses on
those held out, of Gram matrix G,

    |X (W - W')ᵀ|² = tr((W - W') G (W - W')ᵀ)

For q_proj, k_proj and v_proj, rows of X count in G by the attention that their tokens receive: all queries read the keys and
values of an attention sink, which is one token of hundreds.

The best rounds once more, under all sequences. Clips shrink all that they clip, so errors of linears add up in a block, and the
best of each need not be the best together: by default the block's own output has the last word (`methods.layer`), on this mixture
and on each alternative for the whole block.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

# Candidates are found by name, and reached from here, so that jobs that choose follow their code.
from ptqflow.methods.clips import hessian, mse  # noqa: F401
from ptqflow.methods.clips.auto_settings import AutoClip
from ptqflow.methods.rounding import HeldOut, RoundedWeight, Target
from ptqflow.numerics.gram import LowerHalf
from ptqflow.numerics.grid import dequantize_weight
from ptqflow.scheme import WeightArgs


def clipped_range(groups: Tensor, gram: Tensor | None, args: WeightArgs, clip: AutoClip) -> tuple[Tensor, Tensor]:
    """No range of its own: raises ValueError. `choose` comes first."""
    raise ValueError("clip auto clips nothing itself; choose a clip for each linear by held-out inputs")


def choose(
    targets: Sequence[Target],
    gram: Tensor,
    held_out: HeldOut,
    round_weights: Callable[[Sequence[Target], Tensor], Sequence[RoundedWeight]],
) -> tuple[list[Target], list[Mapping[str, float]]]:
    """Weights that share an input, each with the alternative that loses least on held-out rows of that input.

    `gram` [in, in] (float32): XᵀX of all rows, of which some are held out. `round_weights`: the recipe's rounding, given
    targets and XᵀX. Returns targets, and by alternative |X (W - W')ᵀ|² / |X Wᵀ|² on held-out rows. Of equals the first wins.
    """
    others, seen = gram - held_out.gram, LowerHalf(held_out.judge)
    others.diagonal().clamp_(min=0)  # where all of a channel is in the rows held out
    totals = [_lost(target.weight, seen) for target in targets]
    errors: list[dict[str, float]] = [{} for _ in targets]
    alternatives = {name: clip if clip.name != "none" else None for name, clip in AutoClip.alternatives().items()}
    for name, clip in alternatives.items():
        tried = [replace(target, clip=clip) for target in targets]
        for target, rounded, total, of_target in zip(targets, round_weights(tried, others), totals, errors, strict=True):
            difference = dequantize_weight(rounded.integers, rounded.scale, rounded.zero_point).sub_(target.weight)
            error = _lost(difference, seen) / total if total else 0.0
            of_target[name] = error if math.isfinite(error) else math.inf
    best = [min(of_target, key=of_target.__getitem__) for of_target in errors]
    chosen = [replace(target, clip=alternatives[name]) for target, name in zip(targets, best, strict=True)]
    return chosen, list(errors)


def _lost(weight: Tensor, seen: LowerHalf) -> float:
    """|X Wᵀ|² on the held-out rows."""
    return max(0.0, seen.quadratic_forms(weight).double().sum().item())
