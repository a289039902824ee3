"""Settings of no transform at all."""

from typing import Literal

from ptqflow.recipes import Transform


class NoTransform(Transform):
    """Leave activations and weights as they are."""

    name: Literal["none"] = "none"


SETTINGS = NoTransform
