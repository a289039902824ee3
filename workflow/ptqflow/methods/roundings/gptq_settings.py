"""Settings of `methods.roundings.gptq`, and what it needs."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ptqflow.recipes import Need, Rounding


class GptqRounding(Rounding):
    """Column by column with second-order error feedback (GPTQ, algorithm 1), static groups."""

    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    steps: ClassVar[float] = 3.0

    name: Literal["gptq"]
    dampening_frac: Annotated[float, Field(gt=0, lt=1)] = 0.01
    block_size: Annotated[int, Field(ge=1)] = 128
    actorder: bool = True

    @property
    def orders_columns(self) -> bool:
        """By decreasing diag H."""
        return self.actorder

    @property
    def damping(self) -> float:
        """Of mean(diag H)."""
        return self.dampening_frac


SETTINGS = GptqRounding
