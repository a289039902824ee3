"""Settings of `methods.clips.search`, what it needs and what it conflicts with."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ptqflow.linears import LinearName
from ptqflow.method import Clip, Need
from ptqflow.recipes import Recipe


class SearchClip(Clip):
    """Clamp each group to the fraction 1 - i/n_grid of its max|w| that loses the least of the group's output (AWQ).

    Fractions end before 1 - max_shrink. Linears in `skip` keep their range.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})

    name: Literal["search"]
    n_grid: Annotated[int, Field(ge=1)] = 20
    max_shrink: Annotated[float, Field(gt=0, lt=1)] = 0.5
    skip: list[LinearName] = ["q_proj", "k_proj"]

    @property
    def most_lost(self) -> float:
        """By the smallest range that it tries."""
        return self.max_shrink

    def covers(self, linear: str) -> bool:
        """All linears but those in `skip`."""
        return linear not in self.skip

    def conflict(self, recipe: Recipe) -> str | None:
        """Rows have ranges of their own."""
        if any(args.strategy == "tensor" for args in recipe.all_weights()):
            return "clip search works row by row; use weights.strategy group or channel, or clip mse"
        return None


SETTINGS = SearchClip
