"""The base of every data model of the configuration."""

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Immutable; unknown keys, and numbers that are not finite, are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
