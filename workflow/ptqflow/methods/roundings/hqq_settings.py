"""Settings of `methods.roundings.hqq`, what it conflicts with, and when its zero points are integers."""

from typing import Annotated, Literal

from pydantic import Field

from ptqflow.method import Rounding
from ptqflow.recipes import Recipe


class HqqRounding(Rounding):
    """Zero points by half-quadratic splitting, without data (HQQ): |w - w'|^lp_norm, `iterations` of its solver.

    `beta` weighs the coupling of the two halves, and grows by `kappa` per iteration. `zero_point`: real, as published, or integer
    (rounded in each iteration), which checkpoints of engines can hold.
    """

    name: Literal["hqq"]
    lp_norm: Annotated[float, Field(gt=0, le=1)] = 0.7
    beta: Annotated[float, Field(gt=0)] = 10.0
    kappa: Annotated[float, Field(ge=1)] = 1.01
    iterations: Annotated[int, Field(ge=1)] = 20
    zero_point: Literal["real", "integer"] = "real"

    @property
    def real_zero_points(self) -> bool:
        """As published."""
        return self.zero_point == "real"

    def conflict(self, recipe: Recipe) -> str | None:
        """It moves zero points, and knows where the full range of each row's groups puts them."""
        if any(args.symmetric for args in recipe.all_weights()):
            return "rounding hqq moves zero points; use weights.symmetric: false"
        if any(args.convention != "flatquant" for args in recipe.all_weights()):
            return "rounding hqq rounds w / s + z; use weights.convention: flatquant"
        if any(args.strategy == "tensor" for args in recipe.all_weights()):
            return "rounding hqq works row by row; use weights.strategy group or channel"
        return None


SETTINGS = HqqRounding
