"""The base of every data model of the configuration."""

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Immutable; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
