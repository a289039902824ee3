"""The second kind of transform: learned from a whole block's output, not found site by site (`methods.scaling`).

Its algorithm offers `learn(task, recipe) -> LearnedBlock` for it, instead of `smoothing_scale` and `skipped`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ptqflow.by_name import method
from ptqflow.modeling.blocks import Blocks
from ptqflow.recipes import Recipe


@dataclass(frozen=True)
class Task:
    """What a block's transforms are learned from.

    `hidden` and `targets` [sequences, tokens, hidden]: the states that enter block `layer`, and what the float block makes of
    them. `absmax`: max|x| [in] of the float model by site.
    """

    blocks: Blocks
    layer: int
    hidden: Tensor
    targets: Tensor
    absmax: Mapping[str, Tensor]


class LearnedBlock(Protocol):
    """What was learned, ready for plain rounding."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The block's folded float tensors by checkpoint name (float32)."""

    @property
    def weight_clips(self) -> Mapping[str, Tensor]:
        """Ratios [out, 2] of each row's range, by linear."""

    @property
    def qparams(self) -> dict[str, Tensor]:
        """By name: float tensors that changed, online parameters, scales."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Of the losses table."""

    @property
    def fallback(self) -> str | None:
        """What was done instead, if anything."""

    @property
    def warning(self) -> str | None:
        """What is doubtful about it, if anything."""

    def transform_grams(self, grams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gram matrices of the inputs of the folded linears, from those of the float block's."""


def learner(recipe: Recipe) -> Callable[[Task, Recipe], LearnedBlock] | None:
    """How the recipe's transform is learned; None where there is none, or where it is found site by site."""
    if recipe.transform.works != "by_block":
        return None
    learn: Callable[[Task, Recipe], LearnedBlock] = method("transform", recipe.transform.name).learn
    return learn
