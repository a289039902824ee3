"""Settings of `methods.rotations.hadamard`."""

from typing import Annotated, Literal

from pydantic import Field

from ptqflow.method import Rotation


class HadamardRotation(Rotation):
    """A Hadamard matrix with random signs on the residual stream (QuaRot); `seed` draws the signs."""

    name: Literal["hadamard"]
    seed: Annotated[int, Field(ge=0)] = 0


SETTINGS = HadamardRotation
