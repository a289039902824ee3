"""`ptqflow recipes`: the presets, in a sentence each, and the recipes of a study where there is one."""

import argparse
from collections.abc import Mapping
from typing import Any

from ptqflow import configfile
from ptqflow.checkpoints import registry
from ptqflow.checkpoints.schemes import in_words
from ptqflow.errors import ConfigError
from ptqflow.presets import PRESETS, resolve
from ptqflow.recipes import Recipe

EXAMPLES = """examples:
  ptqflow recipes                             the presets
  ptqflow recipes --config study/config.yaml  and the recipes of a study
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The study to look in."""
    parser.add_argument("--config", help="a configuration, whose recipes are listed, too")


def run(args: argparse.Namespace) -> None:
    """Print name, words and forms of every recipe."""
    _print({name: resolve({"preset": name}) for name in PRESETS})
    if args.config:
        print(f"\nRecipes of {args.config}:\n")
        _print(recipes_of(args.config))
    print("\n`ptqflow explain NAME` shows one in full, `ptqflow formats MODEL` what holds it for a model.")


def recipes_of(config: str) -> dict[str, Recipe]:
    """The recipes of a configuration. Raises ConfigError for one that is none."""
    entries: Any = configfile.read(config).get("recipes") or {}
    if not isinstance(entries, Mapping) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ConfigError(f"{config}: recipes: keys with values belong here, name: {{preset: ...}}")
    try:
        return {str(name): resolve(entry) for name, entry in entries.items()}
    except ValueError as error:
        raise ConfigError(f"{config}: recipes: {error}; `ptqflow check {config}` says which") from None


def _print(recipes: Mapping[str, Recipe]) -> None:
    width = max(map(len, recipes), default=0)
    for name, recipe in recipes.items():
        forms = [form for form in registry.forms() if form == registry.FAKE or registry.refusal(form, recipe, None) is None]
        print(f"{name:<{width}}  {in_words(recipe)}\n{'':<{width}}  forms: {', '.join(forms)}")
