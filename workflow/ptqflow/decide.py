"""What must hold of a quantized model before it is recommended: the key `decide` of `config.yaml`. Imports no torch.

It changes no result, only what the answer says of the results.
"""

from typing import Annotated

from pydantic import Field

from ptqflow.datamodel import Model


class Decide(Model):
    """The user's constraints. Bytes: of the checkpoint's files; tokens per second: of decoding, over all sequences."""

    max_drop: Annotated[float, Field(ge=0, le=100)] = 1.0
    probability: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    max_bytes: Annotated[int, Field(ge=1)] | None = None
    min_tokens_per_second: Annotated[float, Field(gt=0)] | None = None
    engine: str | None = None
