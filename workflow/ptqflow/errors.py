"""Errors a user can act on: one sentence that names the file or key and the remedy."""

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError


class PtqflowError(Exception):
    """Bad input, configuration or artifact. The command line prints it without a traceback and exits with status 2."""


class ConfigError(PtqflowError):
    """`config.yaml` (or a `--settings` string) asks for something impossible."""


class ArtifactError(PtqflowError):
    """A file of the study is missing, changed, truncated, or not of its declared schema."""


# What pydantic adds to a path: the alternative it tried.
_BRANCH = re.compile(r"(list|dict|tuple|literal|function-after)\[.*\]|\[\w+\]|constrained-\w+")
_SHOWN = 3  # places of a key
_FIRST_LEVEL = "the first level"
_INDEX = r"(\.\d+)?"  # of a list in a path
_KEYS_EXPECTED = {"model_type", "model_attributes_type", "dict_type"}


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One sentence for the errors of each key: the key's path, what is wrong, and the nearest known key, or the known ones.

    `model` is the data model that refused; its field names serve as suggestions for unknown keys.
    """
    messages: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    paths = {".".join(str(part) for part in entry["loc"] if not _BRANCH.fullmatch(str(part))) for entry in error.errors()}
    for entry in error.errors():
        path = ".".join(str(part) for part in entry["loc"] if not _BRANCH.fullmatch(str(part)))
        if entry["loc"] and _BRANCH.fullmatch(str(entry["loc"][-1])) and any(other.startswith(f"{path}.") for other in paths):
            continue  # an alternative that was not meant: what was meant has an error within
        message = entry["msg"].removeprefix("Value error, ")
        if entry["type"] == "extra_forbidden":
            message = _unknown(path, _places(model))
        elif entry["type"] == "missing":
            message = "this key is required; add it"
        elif entry["type"] == "union_tag_not_found":
            message = "the key 'name' is required; add it"
        else:
            if entry["type"] in _KEYS_EXPECTED:
                message = "keys with values belong here, {key: value, ...}"
            elif entry["type"] == "string_type" and "[key]" in entry["loc"]:
                message = "a name is text; put it in quotes"
            elif entry["type"] == "string_type" and not isinstance(entry["input"], list | dict):
                message = "text belongs here; put it in quotes"
            value = entry["input"]
            if value is None or isinstance(value, str | int | float | bool):
                found[path] = f" (found {'null' if value is None else repr(value)})"
        if message not in messages.setdefault(path, []):
            messages[path].append(message)
    return "; ".join((f"{path}: " if path else "") + ", or ".join(said) + found.get(path, "") for path, said in messages.items())


def _unknown(path: str, places: Mapping[str, list[str]]) -> str:
    """What is said of a key that does not belong where it is: where it does, or which do belong there."""
    parent, _, key = path.rpartition(".")

    def belongs(there: Iterable[str]) -> bool:
        patterns = (re.escape(place).replace("NAME", r"[^.]+").replace(r"\.", rf"{_INDEX}\.") + _INDEX for place in there)
        return any(re.fullmatch(pattern, parent or _FIRST_LEVEL) for pattern in patterns)

    if key not in places:
        here = [name for name, there in places.items() if belongs(there)]
        near = get_close_matches(key, here, n=1)
        return f"unknown key; did you mean {near[0]!r}?" if near else f"unknown key; use one of {', '.join(here)}"
    known = list(dict.fromkeys(places[key]))
    if belongs(known):
        return "unknown key of what is named here, though others have it; remove it, or change `name`"
    return f"unknown key here; it belongs in {' or '.join(known[:_SHOWN])}{', ...' if len(known) > _SHOWN else ''}"


def _places(model: type[BaseModel]) -> dict[str, list[str]]:
    """By name of a field of a model, or of the models within it, the dotted paths of what holds it."""
    schema = model.model_json_schema()
    found: dict[str, list[str]] = {}

    def walk(part: Any, path: str) -> None:
        if not isinstance(part, dict):
            return
        if "$ref" in part:
            walk(schema["$defs"][part["$ref"].rpartition("/")[2]], path)
        for key, value in part.get("properties", {}).items():
            found.setdefault(key, []).append(path or _FIRST_LEVEL)
            walk(value, f"{path}.{key}" if path else key)
        for value in (part.get("additionalProperties"), *part.get("patternProperties", {}).values()):
            walk(value, f"{path}.NAME")
        for value in (part.get("items"), *part.get("anyOf", ()), *part.get("oneOf", ()), *part.get("allOf", ())):
            walk(value, path)

    walk(schema, "")
    return found


def check_all(check: Callable[[str], None], names: Iterable[str]) -> None:
    """Check every name. Raises one ConfigError that names all that do not fit."""
    messages = []
    for name in names:
        try:
            check(name)
        except ConfigError as error:
            messages.append(str(error))
    if messages:
        raise ConfigError("; ".join(messages))
