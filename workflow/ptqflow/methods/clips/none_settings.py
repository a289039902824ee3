"""Settings of no clip at all."""

from typing import Literal

from ptqflow.method import Clip


class NoClip(Clip):
    """The full range of each group."""

    name: Literal["none"] = "none"

    def covers(self, linear: str) -> bool:
        """No linear is clipped."""
        return False


SETTINGS = NoClip
