"""Settings of no transform at all."""

from typing import Literal

from ptqflow.method import Transform


class NoTransform(Transform):
    """Leave activations and weights as they are."""

    name: Literal["none"] = "none"


SETTINGS = NoTransform
