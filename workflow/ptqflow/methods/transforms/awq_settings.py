"""Settings of `methods.transforms.awq`, what it needs and what it conflicts with."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ptqflow.method import Need, Transform
from ptqflow.recipes import Recipe


class AwqTransform(Transform):
    """s = mean|x|^r, r of n_grid points chosen by the output error of the rounded weights (AWQ).

    `duo_scaling` divides by the weights' share of their group's maximum, to the power 1 - r. `gqa_vo` also scales o_proj where
    several query heads share a value head.
    """

    works: ClassVar = "by_site"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram", "mean_abs"})

    name: Literal["awq"]
    n_grid: Annotated[int, Field(ge=1)] = 20
    duo_scaling: bool = False
    gqa_vo: bool = False

    def conflict(self, recipe: Recipe) -> str | None:
        """Without rounded weights there is nothing to search by."""
        if recipe.scheme.weights is None:
            return "transform awq searches by the error of rounded weights; give scheme.weights"
        return None


SETTINGS = AwqTransform
