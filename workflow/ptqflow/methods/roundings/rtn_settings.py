"""Settings of `methods.roundings.rtn`."""

from typing import Literal

from ptqflow.method import Rounding


class RtnRounding(Rounding):
    """Round to nearest, half to even."""

    name: Literal["rtn"] = "rtn"


SETTINGS = RtnRounding
