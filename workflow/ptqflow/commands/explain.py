"""`ptqflow explain NAME`: the complete recipe that a name of config.yaml, or a preset, stands for, and what it changes."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from ptqflow import configfile
from ptqflow.commands.folders import configuration
from ptqflow.commands.recipes import recipe_of
from ptqflow.errors import ConfigError, PtqflowError
from ptqflow.presets import PRESETS, resolve

EXAMPLES = """examples:
  ptqflow explain awq-w4a16                        a preset
  ptqflow explain awq-w4 --config study/config.yaml  a recipe of a study, and what it changes of its preset
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The recipe's name and the file to look in."""
    parser.add_argument("name", help="a recipe of the configuration, or a preset")
    parser.add_argument(
        "--config", default="config.yaml", help="the configuration, or the folder of a study (default: config.yaml)"
    )


def run(args: argparse.Namespace) -> None:
    """Print the recipe as YAML that may take its place in config.yaml; keys that differ from the preset's say so."""
    import yaml

    config = configuration(args.config)
    try:
        entries = configfile.read(config).get("recipes")
    except PtqflowError:
        if args.name not in PRESETS and config.exists():
            raise
        entries = {}
    entries = entries if isinstance(entries, Mapping) else {}
    entry = entries.get(args.name, {"preset": args.name} if args.name in PRESETS else None)
    if not isinstance(entry, dict):
        known = ", ".join(map(str, entries)) or "(none)"
        raise ConfigError(f"no recipe {args.name!r}; {config} defines {known}, and presets are {', '.join(PRESETS)}")
    asked = recipe_of(config, args.name, entry)
    recipe = asked.dump() | ({"replicates": asked.replicates} if asked.replicates > 1 else {})
    preset = resolve({"preset": entry["preset"]}).dump() if "preset" in entry else recipe
    changed = dict(_changes(preset, recipe))
    lines = yaml.safe_dump({args.name: recipe}, sort_keys=False, default_flow_style=False, allow_unicode=True)
    print(lines, end="")
    if "preset" in entry:
        said = "; ".join(f"{key}: {new!r} instead of {old!r}" for key, (old, new) in changed.items())
        print(f"# preset {entry['preset']}" + (f", changed: {said}" if said else ", unchanged"))


def _changes(before: Any, after: Any, place: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """(key, (old, new)) of every leaf that differs."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from _changes(before.get(key), after.get(key), f"{place}.{key}".removeprefix("."))
    elif before != after:
        yield place, (before, after)
