"""Settings of `methods.clips.hessian`, and what it needs."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ptqflow.method import Clip, Need


class HessianClip(Clip):
    """Shrink each group's range to the fraction that minimizes sum of diag H · |w - w'|^norm, H = XᵀX of the inputs."""

    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    by_row: ClassVar[bool] = True

    name: Literal["hessian"]
    norm: Annotated[float, Field(gt=0)] = 2.0
    max_shrink: Annotated[float, Field(gt=0, lt=1)] = 0.8
    n_grid: Annotated[int, Field(ge=1)] = 100

    @property
    def most_lost(self) -> float:
        """By the smallest range that it tries."""
        return self.max_shrink


SETTINGS = HessianClip
