"""The second kind of transform: learned from a whole block's output, not found site by site (`methods.scaling`).

Its algorithm offers `learn(task, recipe) -> LearnedBlock` for it, instead of `smoothing_scale` and `skipped`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ptqflow.by_name import method
from ptqflow.devices.device import Device
from ptqflow.modeling.blocks import Blocks
from ptqflow.recipes import Recipe


@dataclass(frozen=True)
class Task:
    """What a block's transforms are learned from.

    `hidden` and `targets` [sequences, tokens, hidden]: the states that enter block `layer`, and what the float block makes of
    them. `absmax`: max|x| [in] of the float model by site. `device`: where it is learned.
    """

    blocks: Blocks
    layer: int
    hidden: Tensor
    targets: Tensor
    absmax: Mapping[str, Tensor]
    device: Device


@dataclass(frozen=True)
class LearnedBlock(ABC):
    """What was learned, ready for plain rounding.

    tensors: the block's folded float tensors by checkpoint name (float32). weight_clips: ratios [out, 2] of each row's range, by
    linear. qparams, by name: float tensors that changed, online parameters, scales. rows: of the losses table. fallback: what was
    done instead; warning: what is doubtful about it, if anything.
    """

    tensors: dict[str, Tensor]
    weight_clips: Mapping[str, Tensor]
    qparams: dict[str, Tensor]
    rows: list[dict[str, Any]]
    fallback: str | None
    warning: str | None

    @abstractmethod
    def transform_grams(self, grams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gram matrices of the inputs of the folded linears, from those of the float block's."""


def learner(recipe: Recipe) -> Callable[[Task, Recipe], LearnedBlock] | None:
    """How the recipe's transform is learned; None where there is none, or where it is found site by site."""
    if not recipe.learns_by_block():
        return None
    learn: Callable[[Task, Recipe], LearnedBlock] = method("transform", recipe.transform.name).learn
    return learn
