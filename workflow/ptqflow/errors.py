"""Errors a user can act on: one sentence that names the file or key and the remedy."""

import re
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
_BRANCH = re.compile(r"(list|dict|tuple|literal)\[.*\]|\[\w+\]|constrained-\w+")
_KEYS_EXPECTED = {"model_type", "model_attributes_type", "dict_type"}


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One sentence for the errors of each key: the key's path, what is wrong, and the nearest known key or values.

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
            near = get_close_matches(str(entry["loc"][-1]), sorted(_keys(model)), n=1)
            message = "unknown key" + (f"; did you mean {near[0]!r}?" if near else "; remove it")
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


def _keys(model: type[BaseModel]) -> set[str]:
    """Names of all fields of a model and of the models within it."""
    found: set[str] = set()
    waiting: list[Any] = [model.model_json_schema()]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            found |= set(part.get("properties", {}))
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
    return found
