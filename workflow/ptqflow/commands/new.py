"""`ptqflow new STUDY`: a folder with a commented configuration of a user's own, that shares nothing with the demo's."""

import argparse
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from ptqflow.artifacts.atomic import write_text
from ptqflow.commands.entries import EMBEDDED, PLACES, calibration_entry
from ptqflow.commands.folders import CONFIG
from ptqflow.commands.located import Located, located
from ptqflow.environments import ROOT
from ptqflow.errors import ConfigError
from ptqflow.modeling.shapes import check_recipe
from ptqflow.presets import PRESETS, resolve

EXAMPLES = """examples:
  ptqflow new my-study --model Qwen/Qwen3-1.7B
  ptqflow new my-study --model ~/models/my-model --calibration traces.jsonl --recipes awq-w4a16 gptq-w4a16
  ptqflow check my-study     then: which jobs, how long
  ptqflow run my-study       and do it
"""
_TEXT = """# A study of your own; `ptqflow check {folder}` says what it costs, `ptqflow run {folder}` runs it.
# Every key: {root}/docs/configuration.md. Paths are relative to this folder, or absolute.
# yaml-language-server: $schema={root}/workflow/schemas/config.schema.json

# `chunks` cuts the decoder blocks into independent jobs: memory is one chunk's, a crash costs one chunk.
models:
{models}

# Token windows that methods calibrate on; best are the model's own answers to problems like those it will be asked:
# JSON lines with `prompt` and `completion` (format: chat), or `text` (format: plain).{embedded}
calibrations:
  text:
{calibration}
calibration: text

# `ptqflow recipes` lists the presets, `ptqflow formats MODEL` what each form of checkpoint can hold. Keys change a preset:
#   awq-w3: {{preset: awq-w4a16, scheme: {{weights: {{num_bits: 3}}}}}}
recipes:
{recipes}

# What engines serve; `fake` is what is evaluated (docs/checkpoints.md). `servable`: the recipes that the form can hold.
forms:
  fake: all
  compressed-tensors: servable

# What quality is measured on: without tasks there are checkpoints, their verification, sizes and layer errors. Examples:
#   gsm8k: {{benchmark: gsm8k, source: {{repo: openai/gsm8k, revision: <commit>}}, limit: 200}}
#   math-500: {{benchmark: math-500, source: {{path: data/MATH-500}}}}
#   mine: {{benchmark: problems, source: {{path: problems.jsonl}}}}   # rows of id, question and answer
tasks: {{}}

# Tasks that one engine is asked, once per seed (sampled generation: more seeds, narrower intervals). Example:
#   reasoning: {{tasks: [gsm8k], seeds: [42, 43, 44], batch_size: 16}}
suites: {{}}

# How long prefill and decode take. Example:
#   transformers: {{batch_sizes: [1, 8], prompt_tokens: [256], new_tokens: 32}}
latency: {{}}

# What the report may recommend: points lost at most, and how sure that is. Below are the defaults; max_bytes and
# min_tokens_per_second bound size and speed (docs/configuration.md).
decide:
  max_drop: 1.0
  probability: 0.9
"""
_EMBEDDED = "\n# Until you name some, this is the demo's text of an invented world: good to try, not to measure."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, and what is known already."""
    parser.add_argument("study", type=Path, help="folder to make")
    parser.add_argument("--model", required=True, help="a folder, or org/name[@revision] on the hub")
    parser.add_argument("--calibration", help=PLACES)
    parser.add_argument("--recipes", nargs="+", default=["rtn-w4a16", "awq-w4a16", "gptq-w4a16"], help="presets to begin with")


def run(args: argparse.Namespace) -> None:
    """Write the configuration. Raises ConfigError where there is one."""
    file: Path = args.study / CONFIG
    if args.study.is_file():
        raise ConfigError(f"{args.study} is a file; name a folder")
    if file.exists():
        raise ConfigError(f"{file} exists; edit it, or name another folder")
    if unknown := [name for name in args.recipes if name not in PRESETS]:
        raise ConfigError(f"--recipes {unknown[0]}: no such preset; `ptqflow recipes` lists them")
    model = located(args.model)
    recipes = {name: _fitting(name, model) for name in args.recipes}
    place = args.calibration or str(EMBEDDED)
    calibration = calibration_entry(place, resolve({"preset": args.recipes[0]}), {"samples": 128, "seed": 0}, model)
    study = quote(str(args.study))
    text = _TEXT.format(
        folder=study,
        root=ROOT,
        models=_indented({model.name: model.entry | {"chunks": min(4, model.config["num_hidden_layers"])}}, 2),
        embedded="" if args.calibration else _EMBEDDED,
        calibration=_indented(calibration, 4),
        recipes=_indented(recipes, 2),
    )
    args.study.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    print(f"{file}: edit it, then `ptqflow check {study}` and `ptqflow run {study}`")


def _fitting(preset: str, model: Located) -> dict[str, Any]:
    """A preset's entry; in smaller groups where its own do not divide the model's channels. Raises ConfigError where none do."""
    entry: dict[str, Any] = {"preset": preset}
    try:
        check_recipe(resolve(entry), model.config, preset, model.name)
    except ConfigError:
        for size in (64, 32, 16):
            smaller = entry | {"scheme": {"weights": {"group_size": size}}}
            with suppress(ConfigError, ValueError):
                check_recipe(resolve(smaller), model.config, preset, model.name)
                return smaller
        raise
    return entry


def _indented(data: object, spaces: int) -> str:
    lines = yaml.safe_dump(data, sort_keys=False, allow_unicode=True).splitlines()
    return "\n".join(" " * spaces + line for line in lines)
