"""Errors a user can act on: one sentence that names the file or key and the remedy."""

from difflib import get_close_matches

from pydantic import BaseModel, ValidationError


class PtqflowError(Exception):
    """Bad input, configuration or artifact. The command line prints it without a traceback and exits with status 2."""


class ConfigError(PtqflowError):
    """`config.yaml` (or a `--settings` string) asks for something impossible."""


class ArtifactError(PtqflowError):
    """A file of the study is missing, changed, truncated, or not of its declared schema."""


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One sentence for the first error of each key: the key's path, what is wrong, and the nearest known key or values.

    `model` is the data model that refused; its field names serve as suggestions for unknown keys.
    """
    sentences: dict[str, str] = {}
    for entry in error.errors():
        path = ".".join(str(part) for part in entry["loc"]) or "settings"
        message = entry["msg"].removeprefix("Value error, ")
        if entry["type"] == "extra_forbidden":
            near = get_close_matches(str(entry["loc"][-1]), sorted(_keys(model)), n=1)
            message = "unknown key" + (f"; did you mean {near[0]!r}?" if near else "; remove it")
        elif entry["type"] == "missing":
            message = "this key is required; add it"
        elif "input" in entry and isinstance(entry["input"], str | int | float | bool):
            message += f" (found {entry['input']!r})"
        sentences.setdefault(path, f"{path}: {message}")
    return "; ".join(sentences.values())


def _keys(model: type[BaseModel]) -> set[str]:
    """Names of all fields of a model and of the models within it."""
    found: set[str] = set()
    for definition in [schema := model.model_json_schema(), *schema.get("$defs", {}).values()]:
        found |= set(definition.get("properties", {}))
    return found
