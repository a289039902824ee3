"""Methods found by name: `methods/<kind>s/<name>_settings.py` holds the settings of a method and what it says of itself.

Import-light: the algorithm is in `<name>.py` beside it, which only a job that runs it imports. Nothing lists the names, so a new
method changes nothing of any other: no file that jobs of other recipes import names it.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

_METHODS = Path(__file__).parent / "methods"
_SUFFIX = "_settings"


def names(kind: str) -> list[str]:
    """The methods of a kind (transform, clip, ...) that are there."""
    return sorted(path.stem.removesuffix(_SUFFIX) for path in (_METHODS / f"{kind}s").glob(f"*{_SUFFIX}.py"))


def settings_module(kind: str, name: str) -> str:
    """The module of a method's settings, inside the package."""
    return f"methods.{kind}s.{name}{_SUFFIX}"


def algorithm_module(kind: str, name: str) -> str | None:
    """The module of a method's algorithm, inside the package; None where there is nothing to compute."""
    return f"methods.{kind}s.{name}" if (_METHODS / f"{kind}s" / f"{name}.py").is_file() else None


def settings_class(kind: str, name: object) -> Any:
    """The data model of a method's settings. Raises ValueError for an unknown name, naming the known ones."""
    if not isinstance(name, str) or name not in names(kind):
        raise ValueError(f"unknown {kind} {name!r}; use one of {', '.join(names(kind))}")
    return import_module(f"ptqflow.{settings_module(kind, name)}").SETTINGS


def method(kind: str, name: str) -> Any:
    """The module of a method's algorithm, imported."""
    return import_module(f"ptqflow.methods.{kind}s.{name}")


@dataclass(frozen=True)
class ByName:
    """Annotation of a field that holds the settings of a method of some kind: its key `name` says which."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._found, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """For editors: any of the methods that are there."""
        schemas = [handler(settings_class(self.kind, name).__pydantic_core_schema__) for name in names(self.kind)]
        return {"anyOf": [{**found, "required": sorted({"name", *found.get("required", [])})} for found in schemas]}

    def _found(self, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if "name" not in data:
            raise PydanticCustomError("union_tag_not_found", "the key 'name' is required")
        return settings_class(self.kind, data["name"]).model_validate(data)


def validated_at(place: tuple[str | int, ...], model: type[BaseModel], data: Any) -> Any:
    """`data` as a data model; errors are of the keys at `place`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [
            InitErrorDetails(type=e["type"], loc=(*place, *e["loc"]), input=e["input"], ctx=e.get("ctx", {}))
            for e in error.errors()
        ]
        raise ValidationError.from_exception_data(model.__name__, lines) from None
