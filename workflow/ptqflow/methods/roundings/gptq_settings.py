"""Settings of `methods.roundings.gptq`, and what it needs."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ptqflow.method import Need, Rounding
from ptqflow.recipes import Recipe


class GptqRounding(Rounding):
    """Column by column with second-order error feedback (GPTQ, algorithm 1), static groups."""

    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})

    name: Literal["gptq"]
    dampening_frac: Annotated[float, Field(gt=0, lt=1)] = 0.01
    block_size: Annotated[int, Field(ge=1)] = 128
    actorder: bool = True
    asymmetric_calibration: bool = False
    ridge: Annotated[float, Field(gt=0)] | None = None
    token_weights: Literal["equal", "attention"] = "equal"

    @model_validator(mode="after")
    def _ridge_of_something(self) -> "GptqRounding":
        if self.ridge is not None and not self.asymmetric_calibration:
            raise ValueError("ridge belongs to asymmetric_calibration; set that to true, or remove ridge")
        return self

    def conflict(self, recipe: Recipe) -> str | None:
        """Both look at what a block makes of its inputs while it is rounded, site by site."""
        needed_for = {
            "asymmetric_calibration makes up for errors that reach a linear through its inputs": self.asymmetric_calibration,
            "token_weights: attention looks at the block's attention as rounding finds it": self.weighs_by_attention,
        }
        for what, asked in needed_for.items():
            if asked and not recipe.rounds_by_site():
                return (
                    f"{what}, but this recipe rounds by the float model's inputs (error_propagation: "
                    f"{str(recipe.error_propagation).lower()}, transform {recipe.transform.name}); set error_propagation to true "
                    "with a transform that is not learned, or remove it"
                )
        return None

    def ridge_at(self, tokens_per_channel: float) -> float | None:
        """`ridge`, or 1 / tokens per channel: few tokens explain the difference of inputs by chance."""
        if not self.asymmetric_calibration:
            return None
        return self.ridge if self.ridge is not None else 1 / tokens_per_channel

    @property
    def steps(self) -> float:
        """3 at the default damping λ; less of it leaves more to move: the loss that rounding bounds has λ |w - w'|² as a part."""
        return 3.0 * max(1.0, math.sqrt(0.01 / self.dampening_frac))

    @property
    def weighs_by_attention(self) -> bool:
        """Where the recipe says so."""
        return self.token_weights == "attention"

    @property
    def orders_columns(self) -> bool:
        """By decreasing diag H."""
        return self.actorder

    @property
    def damping(self) -> float:
        """Of mean(diag H)."""
        return self.dampening_frac


SETTINGS = GptqRounding
