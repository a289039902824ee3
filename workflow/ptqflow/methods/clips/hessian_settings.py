"""Settings of `methods.clips.hessian`, what it needs and what it conflicts with."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ptqflow.method import Clip, Need
from ptqflow.recipes import Recipe


class HessianClip(Clip):
    """Shrink each group's range to the fraction that minimizes sum of diag H · |w - w'|^norm, H = XᵀX of the inputs."""

    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})

    name: Literal["hessian"]
    norm: Annotated[float, Field(gt=0)] = 2.0
    max_shrink: Annotated[float, Field(gt=0, lt=1)] = 0.8
    n_grid: Annotated[int, Field(ge=1)] = 100

    @property
    def most_lost(self) -> float:
        """By the smallest range that it tries."""
        return self.max_shrink

    def conflict(self, recipe: Recipe) -> str | None:
        """Rows have ranges of their own."""
        if any(args.strategy == "tensor" for args in recipe.all_weights()):
            return f"clip {self.name} works row by row; use weights.strategy group or channel, or clip mse"
        return None


SETTINGS = HessianClip
