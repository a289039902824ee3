"""A study as `config.yaml` asks for it, held against what it names: models, data, engines. All before any job.

Import-light (no torch): the Snakefile reads this at every parse, also in every remote job.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ptqflow.artifacts.datasets import first_row
from ptqflow.artifacts.models import chat_templates, check_tokenizer, source_files, weight_files
from ptqflow.calibration import check_columns
from ptqflow.chat import check_arguments
from ptqflow.checkpoints.registry import FAKE
from ptqflow.engines.registry import module_of, refuse_ranks
from ptqflow.errors import ConfigError, PtqflowError, check_all, explain
from ptqflow.evaluation.benchmark import check_first
from ptqflow.evaluation.fewshot import examples
from ptqflow.evaluation.tasks import ChoicesTask
from ptqflow.modeling import anatomy, dimensions
from ptqflow.modeling.ranks import check_ranks, check_shards
from ptqflow.modeling.shapes import check_recipe
from ptqflow.modeling.tensors import check_model
from ptqflow.study import Study, config_of, layers_of


def load(config: Mapping[str, Any]) -> Study:
    """The study of a parsed `config.yaml`. Raises ConfigError with one sentence per wrong key, before any job."""
    try:
        study = Study.model_validate(dict(config))
    except ValidationError as error:
        raise ConfigError(f"config.yaml: {explain(error, Study)}") from None
    speaking = study.speaking()
    for name, entry in study.models.items():
        with _named(f"models.{name}"):
            if (stated := config_of(study, name)) is not None:
                anatomy.architecture_of(stated)  # before what its folder lacks: an unknown architecture has other tensors
        if entry.source.path is not None:
            with _named(f"models.{name}.source"):
                check_model(Path(entry.source.path), weight_files(Path(entry.source.path), source_files(entry.source.path)))
                check_tokenizer(Path(entry.source.path), list(speaking))
                templates = chat_templates(Path(entry.source.path)) if speaking else []
            for key, chat in speaking.items():
                where = f"config.yaml: {key}, model {name}"
                check_arguments(templates, chat.chat_template_kwargs or (), where)
    for name, calibration in study.calibrations.items():
        with _named(f"calibrations.{name}.source"):
            if calibration.source.local is not None:
                check_columns("1", first_row(calibration.source), calibration)
    for name, task in study.tasks.items():
        with _named(f"tasks.{name}.source"):
            for source in task.sources:
                if source.local is not None:
                    check_first(f"task {name}", task.benchmark, source)
        if isinstance(task, ChoicesTask) and task.examples is not None and task.examples.local is not None:
            with _named(f"tasks.{name}.examples"):
                examples(f"task {name}", task.benchmark, task.examples, task.num_fewshot)
    for kind, entries in (("suites", study.suites), ("latency", study.latency)):
        for name, served in entries.items():
            with _named(f"{kind}.{name}.engine"):
                module_of(served.engine)
            with _named(f"{kind}.{name}"):
                refuse_ranks(served.engine, max(served.ranks(model) for model in study.models))
    for name in study.models:
        _check_architecture(study, name)
        with _named("forms"):
            study.checkpoints(config_of(study, name))
        for kind, entries in (("suites", study.suites), ("latency", study.latency)):
            for key, served in entries.items():
                with _named(f"{kind}.{key}.forms"):
                    study.uncomputed(served, config_of(study, name))
    return study.replicated


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Put the key of config.yaml before what a room says of its value."""
    try:
        yield
    except PtqflowError as error:
        raise type(error)(f"config.yaml: {key}: {error}") from None
    except OSError as error:
        raise ConfigError(f"config.yaml: {key}: {error.strerror or error}; correct the path or its permissions") from None


def _check_architecture(study: Study, name: str) -> None:
    architecture = config_of(study, name)
    layers, entry = layers_of(study, name), study.models[name]
    stated = entry.model_type
    if stated and (stated not in anatomy.known() or (architecture is not None and architecture["model_type"] != stated)):
        which = f"one of {', '.join(anatomy.known())}" if architecture is None else architecture["model_type"]
        raise ConfigError(f"config.yaml: models.{name}.model_type: {stated!r}; use {which}, as the model's config.json says")
    if entry.chunks > layers:
        raise ConfigError(f"config.yaml: models.{name}.chunks: {entry.chunks} chunks of {layers} blocks; use at most {layers}")
    if architecture is None:
        return
    if architecture["num_hidden_layers"] != layers:
        raise ConfigError(f"config.yaml: models.{name}.layers: {layers}, but the model has {architecture['num_hidden_layers']}")
    check_all(lambda recipe: check_recipe(study.recipes[recipe], architecture, recipe, name), study.chosen)
    _check_positions(study, name, dimensions.positions(architecture))
    for kind, entries in (("suites", study.suites), ("latency", study.latency)):
        for key, served in entries.items():
            if (ranks := served.ranks(name)) > 1:
                with _named(f"{kind}.{key}"):
                    check_ranks(ranks, architecture, name)
                    for recipe in study.chosen if FAKE in served.forms else []:
                        check_shards(ranks, study.recipes[recipe], architecture, recipe)


def _check_positions(study: Study, name: str, positions: int | None) -> None:
    """Windows of calibration and of perplexity are no longer than the model has positions."""
    if positions is None:
        return
    used = dict.fromkeys([study.calibration_of(recipe) for recipe in study.chosen])
    lengths = [(f"calibrations.{c}.sequence_length", study.calibrations[c].sequence_length) for c in used]
    tasks = dict.fromkeys(task for suite in study.suites.values() for task in suite.tasks)
    lengths += [(f"tasks.{task}.window", study.tasks[task].asks.get("window", 0)) for task in tasks]
    lengths += [
        (f"latency.{timing}.prompt_tokens and new_tokens", entry.longest().prompt_tokens + entry.longest().new_tokens)
        for timing, entry in study.latency.items()
    ]
    for key, length in lengths:
        if length > positions:
            raise ConfigError(
                f"config.yaml: {key}: sequences of {length} tokens, but model {name} has {positions} positions; use fewer tokens"
            )
