"""Settings of no rotation at all."""

from typing import Literal

from ptqflow.method import Rotation


class NoRotation(Rotation):
    """Quantize the model as it is."""

    name: Literal["none"] = "none"


SETTINGS = NoRotation
