"""What a study will cost before anything runs: seconds of each job, memory of the largest, disk of all that it leaves.

A model of arithmetic, not a promise. Its unit is a forward pass of the calibration set, 2 operations per weight and token, at the
speed that this machine shows for a product of matrices. How many passes a method needs was measured (docs/performance.md: 3 for
GPTQ and AWQ, 0.4 for plain rounding, on 111 M parameters; FlatQuant's steps each cost a pass forward and two back).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from ptqflow.artifacts.datasets import load_rows
from ptqflow.demands import MB, Dimensions
from ptqflow.errors import ConfigError
from ptqflow.evaluation.tasks import TaskConfig
from ptqflow.modeling.dimensions import linear_shapes
from ptqflow.modeling.shapes import packed_bytes, shards_of
from ptqflow.needs import Needs
from ptqflow.recipes import Recipe
from ptqflow.study import Study, config_of

_START = 6.0  # seconds until a process has imported what it needs, on one core
_STEP = 0.02  # seconds that a step of generation costs beside its arithmetic
_ROUNDING, _SECOND_ORDER, _LEARNED_PER_EPOCH = 0.4, 3.0, 4.0  # passes of the calibration set
_DECODING = 0.3  # share of the speed of large products that steps of generation reach
_CHOICE_TOKENS, _CHOICES, _UNKNOWN_ITEMS = 100, 4, 1000  # of an item, and items of a data set that is not here


@dataclass(frozen=True)
class Size:
    """A model's size: weights of all linears of the blocks, of one block, of everything; its width; bytes as stored."""

    linears: int
    block: int
    parameters: int
    hidden: int
    bytes: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Size":
        """From config.json, in two bytes per parameter."""
        block = sum(rows * columns for rows, columns in linear_shapes(config).values())
        linears = block * int(config["num_hidden_layers"])
        tables = 1 if config.get("tie_word_embeddings") else 2
        parameters = linears + tables * int(config["vocab_size"]) * int(config["hidden_size"])
        return cls(linears, block, parameters, int(config["hidden_size"]), 2 * parameters)


def passes(recipe: Recipe) -> float:
    """Passes of the calibration set that quantizing by a recipe costs."""
    if recipe.transform.works == "by_block":
        return _SECOND_ORDER + _LEARNED_PER_EPOCH * float(getattr(recipe.transform, "epochs", 15) or 0)
    return _SECOND_ORDER if recipe.learns_from_states() else _ROUNDING


def sizes(study: Study, configs: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Size]:
    """Size of every model. `configs`: config.json of those that are not fetched yet. Raises ConfigError for one without."""
    found = {}
    for name in study.models:
        config = config_of(study, name) or (configs or {}).get(name)
        if config is None:
            raise ConfigError(
                f"models.{name} is not here yet, so its size is not known; fetch it first, or let its hub be reached"
            )
        found[name] = Size.of(config)
    return found


def seconds(study: Study, models: Mapping[str, Size], rate: float) -> dict[str, list[float]]:
    """Seconds of every job by rule, at `rate` operations per second, jobs one after the other."""
    found: dict[str, list[float]] = {}
    for rule, value in _jobs(study, models, rate):
        found.setdefault(rule, []).append(value)
    return found


def _jobs(study: Study, models: Mapping[str, Size], rate: float) -> Iterator[tuple[str, float]]:
    for name, model in models.items():
        yield "fetch", _START + model.bytes / 100e6
        for calibration in {study.calibration_of(recipe) for recipe in study.chosen}:
            yield "tokens", _START
            yield "collect", _START + 2 * model.linears * _tokens(study, calibration) / rate
        for recipe in study.chosen:
            work = 2 * model.linears * _tokens(study, study.calibration_of(recipe)) * passes(study.recipes[recipe]) / rate
            chunks = study.models[name].chunks
            yield from (("quantize", _START + work / chunks) for _ in range(chunks))
            if (rescue := study.recipes[recipe].rescue) is not None:
                yield "rescue", _START + work * rescue.budget
        architecture = config_of(study, name)
        for _ in study.checkpoints(architecture):
            yield "export", _START + model.bytes / 50e6
            yield "verify", 2 * _START + model.bytes / 50e6 + 3 * 2 * model.parameters * 8 * 512 / rate
        for suite in study.suites.values():
            for _ in study.variants(suite.forms, architecture):
                for task in suite.tasks:
                    asking = _START + _asking(study.tasks[task], model, suite.batch_size, rate)
                    yield from ((rule, cost) for _ in suite.seeds for rule, cost in (("generate", asking), ("score", _START)))
        for timing in study.latency.values():
            steps = (timing.repetitions + timing.warmup) * sum(shape.new_tokens for shape in timing.shapes())
            for _ in study.variants(timing.forms, architecture):
                yield "measure", _START + steps * (_STEP + max(timing.batch_sizes) * 2 * model.parameters / (rate * _DECODING))
    yield "aggregate", _START
    yield from (("plot", _START) for _ in range(4))


def _tokens(study: Study, calibration: str) -> int:
    return study.calibrations[calibration].samples * study.calibrations[calibration].sequence_length


def _asking(task: TaskConfig, model: Size, batch: int, rate: float) -> float:
    """Seconds that a model is asked one task, every completion as long as it may be."""
    kind, items = task.definition.kind, _items(task)
    protocol = {**task.definition.defaults, **task.asks}
    if kind == "generation":
        known: Any = task.PROTOCOL.model_validate({k: v for k, v in protocol.items() if k in task.PROTOCOL.model_fields})
        steps = ceil(items * known.completions / batch) * known.max_new_tokens
        return float(steps * (_STEP + min(batch, items) * 2 * model.parameters / (rate * _DECODING)))
    item = (_CHOICES + int(protocol.get("num_fewshot", 0))) * _CHOICE_TOKENS
    tokens = items * (item if kind == "choices" else int(protocol.get("window", 2048)))
    return 2 * model.parameters * tokens / rate


def _items(task: TaskConfig) -> int:
    """Items of a task: its limit, else the rows that are here."""
    if (limit := task.asks.get("limit")) is not None:
        return int(limit)
    return sum(len(load_rows(source)) if source.local is not None else _UNKNOWN_ITEMS for source in task.sources)


def memory(study: Study, configs: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[str, int]:
    """The job that asks for most memory, by its name, and the bytes. `configs`: as of `sizes`."""
    on_device = study.platform != "cpu"
    name, demand = Needs(study, {name: Dimensions.of(config, on_device) for name, config in (configs or {}).items()}).largest()
    return name, demand.mem_mb * MB


def disk(study: Study, models: Mapping[str, Size]) -> int:
    """Bytes that the study leaves: models, states of calibration, integers and scales, checkpoints."""
    total = 0
    for name, model in models.items():
        architecture = config_of(study, name)
        used = {study.calibration_of(recipe) for recipe in study.chosen}
        states = sum(4 * _tokens(study, calibration) * model.hidden * study.models[name].chunks for calibration in used)
        total += model.bytes + states
        for recipe in study.chosen:
            total += _stored(study.recipes[recipe], model, architecture)
        for recipe, form in study.checkpoints(architecture):
            rest = 2 * (model.parameters - model.linears)
            total += model.bytes if form == "fake" else rest + _stored(study.recipes[recipe], model, architecture)
    return total


def _stored(recipe: Recipe, model: Size, config: Mapping[str, Any] | None) -> int:
    """Bytes of the integers and scales of a recipe."""
    args = recipe.scheme.weights
    if args is None or config is None:
        return 0 if args is None else model.linears * args.num_bits // 8
    shapes = linear_shapes(config).items()
    per_block = sum(packed_bytes(shape, args, shards_of(recipe, linear)) for linear, shape in shapes)
    return per_block * int(config["num_hidden_layers"])
