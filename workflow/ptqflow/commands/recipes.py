"""`ptqflow recipes`: the presets, in a sentence each, and the recipes of a study where there is one."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ptqflow import configfile
from ptqflow.checkpoints import registry
from ptqflow.checkpoints.schemes import in_words
from ptqflow.commands.folders import configuration
from ptqflow.errors import ConfigError, explain
from ptqflow.presets import PRESETS, resolve, without_preset
from ptqflow.recipes import Recipe
from ptqflow.replicates import Replicated

EXAMPLES = """examples:
  ptqflow recipes                             the presets
  ptqflow recipes --config study/config.yaml  and the recipes of a study
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The study to look in."""
    parser.add_argument("--config", help="a configuration, or the folder of a study, whose recipes are listed, too")


def run(args: argparse.Namespace) -> None:
    """Print name, words and forms of every recipe."""
    _print({name: resolve({"preset": name}) for name in PRESETS})
    if args.config:
        print(f"\nRecipes of {args.config}:\n")
        _print(recipes_of(args.config))
    print("\n`ptqflow explain NAME` shows one in full, `ptqflow formats MODEL` what holds it for a model.")


def recipes_of(place: str) -> dict[str, Replicated]:
    """The recipes of a configuration, or of a study's folder. Raises ConfigError for one that is none."""
    config = configuration(place)
    entries: Any = configfile.read(config).get("recipes") or {}
    if not isinstance(entries, Mapping) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ConfigError(f"{config}: recipes: keys with values belong here, name: {{preset: ...}}")
    return {str(name): recipe_of(config, name, entry) for name, entry in entries.items()}


def recipe_of(config: Path, name: str, entry: dict[str, Any]) -> Replicated:
    """What an entry of `recipes` stands for. Raises ConfigError that names it."""
    try:
        return Replicated.model_validate(without_preset(entry))
    except ValueError as error:
        said = explain(error, Replicated) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"{config}: recipes.{name}: {said}") from None


def _print(recipes: Mapping[str, Recipe]) -> None:
    width = max(map(len, recipes), default=0)
    for name, recipe in recipes.items():
        forms = [form for form in registry.forms() if form == registry.FAKE or registry.refusal(form, recipe, None) is None]
        print(f"{name:<{width}}  {in_words(recipe)}\n{'':<{width}}  forms: {', '.join(forms)}")
