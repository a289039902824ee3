"""Entries of a configuration from what a user types: a recipe with changes, a calibration set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ptqflow import configfile
from ptqflow.artifacts.datasets import first_row
from ptqflow.commands.located import Located, on_hub
from ptqflow.environments import ROOT
from ptqflow.errors import ConfigError, explain
from ptqflow.presets import PRESETS, resolve
from ptqflow.recipes import Recipe
from ptqflow.sources import CalibrationSource

OF_CALIBRATION = "calibration."  # settings of --set that are of the calibration set
EMBEDDED = ROOT / "resources/calibration/text.jsonl"
PLACES = "a .jsonl, .parquet or .csv file, or org/name[@revision][:subset[:split]] on the hub"  # of a calibration set


def settings(assignments: Sequence[str]) -> dict[str, Any]:
    """`a.b=value` as nested keys; values are YAML. Raises ConfigError for what is no assignment."""
    import yaml

    found: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        *parents, leaf = key.split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else place
        if not (equals and all([leaf, *parents])) or not isinstance(place, dict):
            raise ConfigError(f"--set {text}: give key=value, as scheme.weights.num_bits=3 or calibration.samples=64")
        try:
            place[leaf] = configfile.value_of(value, "--set", key)
        except yaml.YAMLError:
            raise ConfigError(f"--set {text}: {value!r} is not YAML; put text in quotes") from None
    return found


def recipe_entry(name: str, changes: dict[str, Any]) -> tuple[dict[str, Any], Recipe]:
    """The entry of a preset, or of a YAML file that holds one recipe, with changes; and the recipe that it stands for."""
    if name in PRESETS:
        entry: dict[str, Any] = {"preset": name}
    elif (file := Path(name).expanduser()).is_file():
        entry = configfile.read(file)
    else:
        raise ConfigError(f"--recipe {name}: no preset and no file; `ptqflow recipes` lists the presets")
    entry = _merged(entry, changes)
    try:
        return entry, resolve(entry)
    except ValidationError as error:
        raise ConfigError(f"--recipe {name}: {explain(error, Recipe)}") from None
    except ValueError as error:
        raise ConfigError(f"--recipe {name}: {error}") from None


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = {**base, **own}
    for key in base.keys() & own.keys():
        if isinstance(base[key], dict) and isinstance(own[key], dict):
            merged[key] = _merged(base[key], own[key])
    return merged


def calibration_entry(place: str | None, recipe: Recipe, changes: dict[str, Any], model: Located) -> dict[str, Any]:
    """A calibration set of a file, or of `org/name[@revision][:subset[:split]]` on the hub, for a model.

    Without a place a recipe that learns nothing from data is verified on the text that comes with ptqflow; another is refused.
    """
    if place is None:
        if recipe.calibrates():
            raise ConfigError(
                "the recipe learns from calibration text; give --calibration FILE (.jsonl, .parquet or .csv with `text`, "
                "`prompt` and `completion`, or `messages`: best the model's own answers), or "
                "org/name[@revision][:subset[:split]] on the hub"
            )
        place = str(EMBEDDED)
    length = min(2048, model.config.get("max_position_embeddings") or 2048)
    entry = _merged({"source": _source(place), "sequence_length": length}, changes)
    return {"source": entry["source"], "format": _format(entry["source"]) if model.speaks else "plain"} | entry


def _source(place: str) -> dict[str, str]:
    path = Path(place).expanduser()
    if path.exists():
        return {"path": str(path.resolve())}
    repo, *parts = place.split(":")
    found, revision = on_hub(repo, "dataset")
    return {"repo": found, "revision": revision} | dict(zip(("subset", "split"), parts, strict=False))


def _format(source: object) -> str:
    """`chat` for rows of prompts and completions, or messages; `plain` for text."""
    try:
        rows = CalibrationSource.model_validate(source)
    except ValidationError as error:
        raise ConfigError(f"--set {OF_CALIBRATION}source: {explain(error, CalibrationSource)}") from None
    return "plain" if "text" in first_row(rows) else "chat"
