"""Settings of `methods.clips.mse`."""

from typing import Annotated, Literal

from pydantic import Field

from ptqflow.method import Clip


class MseClip(Clip):
    """Shrink each group's range to the fraction that minimizes sum |w - w'|^norm."""

    name: Literal["mse"]
    norm: Annotated[float, Field(gt=0)] = 2.4
    max_shrink: Annotated[float, Field(gt=0, lt=1)] = 0.8
    n_grid: Annotated[int, Field(ge=1)] = 100

    @property
    def most_lost(self) -> float:
        """A norm below 2 spares many small errors by few large ones."""
        return self.max_shrink if self.norm < 2 else 0.0


SETTINGS = MseClip
