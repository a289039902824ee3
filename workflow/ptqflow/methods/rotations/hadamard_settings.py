"""Settings of `methods.rotations.hadamard`."""

from typing import Literal

from ptqflow.datamodel import Seed
from ptqflow.method import Rotation


class HadamardRotation(Rotation):
    """A Hadamard matrix with random signs on the residual stream (QuaRot); `seed` draws the signs."""

    name: Literal["hadamard"]
    seed: Seed = 0


SETTINGS = HadamardRotation
