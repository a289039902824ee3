"""The platforms that a study compares, and what torch calls the device of each."""

from typing import Literal

Platform = Literal["cpu", "gpu", "ascend"]
PLATFORMS: dict[Platform, str] = {"cpu": "cpu", "gpu": "cuda", "ascend": "npu"}
