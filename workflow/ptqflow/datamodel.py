"""The base of every data model of the configuration."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import CoreSchema, core_schema

Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # what a column of 64 bits holds


def _once(values: list[Any]) -> list[Any]:
    if (twice := next((value for value in values if values.count(value) > 1), None)) is not None:
        raise ValueError(f"{twice!r} is there twice; name each once")
    return values


Distinct = AfterValidator(_once)  # in `Annotated[list[...], Distinct]`: else the same work would be done again


@dataclass(frozen=True)
class Matching:
    """In `Annotated[str, Matching(...)]`: text of a pattern. `words` say what belongs there, where pydantic shows the pattern."""

    pattern: str
    words: str
    longest: int | None = None

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> CoreSchema:
        text = core_schema.str_schema(pattern=self.pattern, max_length=self.longest)
        return core_schema.no_info_before_validator_function(self._matched, text)

    def _matched(self, value: Any) -> Any:
        if isinstance(value, str) and not re.search(self.pattern, value):
            raise ValueError(f"{self.words} belongs here")
        return value


class Model(BaseModel):
    """Immutable; unknown keys, numbers that are not finite, and true or false in the place of a number are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, data: Any) -> Any:
        """`true` would else be 1: YAML reads `yes` and `on` so, too."""
        for key, value in data.items() if isinstance(data, dict) else ():
            entries = value if isinstance(value, list | tuple) else [value]
            field = cls.model_fields.get(key)
            if field and any(isinstance(entry, bool) for entry in entries) and not _takes_bool(field.annotation):
                raise ValueError(f"{key}: true and false mean nothing here; write a number, or yes, no, on, off in quotes")
        return data


def _takes_bool(annotation: Any) -> bool:
    """Whether a field may hold true or false."""
    if annotation in (bool, Any) or isinstance(annotation, bool):
        return True
    return any(_takes_bool(part) for part in get_args(annotation))
