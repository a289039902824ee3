"""Settings of `methods.transforms.smoothquant`, and what it needs."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ptqflow.linears import SiteName
from ptqflow.method import Need, Transform


class SmoothQuantTransform(Transform):
    """s = amax|x|^a / amax|W|^(1-a) per channel, moved from activations into weights (SmoothQuant, eq. 4)."""

    works: ClassVar = "by_site"
    needs: ClassVar[frozenset[Need]] = frozenset({"absmax"})

    name: Literal["smoothquant"]
    smoothing_strength: Annotated[float, Field(ge=0, le=1)] = 0.85
    sites: Annotated[list[SiteName], Field(min_length=1)] = ["qkv", "gate_up"]


SETTINGS = SmoothQuantTransform
