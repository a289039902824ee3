"""Settings of `methods.clips.search`, and what it needs."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ptqflow.linears import LinearName
from ptqflow.method import Clip, Need


class SearchClip(Clip):
    """Clamp each group to the fraction 1 - i/n_grid of its max|w| that loses the least of the group's output (AWQ).

    Fractions end before 1 - max_shrink. Linears in `skip` keep their range.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    by_row: ClassVar[bool] = True

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


SETTINGS = SearchClip
