"""What a study will cost before anything runs: seconds of each job, memory of the largest, disk of all that it leaves.

A model of arithmetic, not a promise. Its unit is the second of one core at the speed that it shows for a product of matrices; a
forward pass of the calibration set takes 2 operations per weight and token. How many passes, and operations more, a method needs
was measured (tests/workflow/test_quantize_model.py); FlatQuant's steps each cost a pass forward and two back. Memory is what the
jobs ask for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from ptqflow.artifacts.datasets import load_rows
from ptqflow.demands import MB, Dimensions
from ptqflow.errors import ConfigError
from ptqflow.evaluation.benchmark import items_and_rows
from ptqflow.evaluation.items import TextItem
from ptqflow.evaluation.tasks import TaskConfig
from ptqflow.method import FROM_STATES
from ptqflow.modeling.dimensions import linear_shapes
from ptqflow.modeling.shapes import packed_bytes, shards_of
from ptqflow.needs import Needs
from ptqflow.recipes import Recipe
from ptqflow.study import Study, config_of

# Seconds of one core until a job has loaded what it needs: from a process that has (warm.py), or all by itself.
_SHARED, _ALONE = 0.7, 6.0
_STEP = 0.02  # seconds that a step of generation costs beside its arithmetic
# Of quantizing: passes of a walk with its Gram matrices and errors, and of an epoch (one more for what is judged before and after
# them); operations per weight of a rounding.
_WALKED, _EPOCH, _ROUNDED = 3.0, 5.0, 2e4
_DECODING = 0.3  # share of the speed of large products that steps of generation reach
_TURNED = 8.0  # operations per weight and channel of turning a model, half as fast in float64
_CHOICE_TOKENS, _CHOICES, _UNKNOWN_ITEMS = 100, 4, 1000  # of an item, and items of a data set that is not here
_CHARACTERS, _UNKNOWN_TOKENS = 4, 300_000  # of a token, and tokens of a text that is not here (WikiText-2's test split)


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
    """Passes of the calibration set that quantizing by a recipe costs; plain rounding looks at a sample alone.

    A block is walked for each candidate of a clip that is chosen block by block; each time the float block, too, where a
    transform is found from all inputs before they are rounded one by one, and where calibration is asymmetric.
    """
    if not recipe.learns_from_states():
        return 0.0
    found_first = recipe.rounds_by_site() and bool(recipe.transform.needs & FROM_STATES)
    walks = (1 + len(recipe.clip.candidates())) * (1 + found_first + recipe.rounding.asymmetric)
    learned = _EPOCH * (1 + getattr(recipe.transform, "epochs", 0)) if recipe.learns_by_block() else 0.0
    return _WALKED * walks + learned


def quantizing(recipe: Recipe, weights: int, tokens: int) -> float:
    """Operations of quantizing so many weights by a recipe, on so many tokens of calibration."""
    return weights * (2 * tokens * passes(recipe) + _ROUNDED * recipe.clip.roundings)


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
    """Seconds of one core of every job by rule, at `rate` operations per second."""
    found: dict[str, list[float]] = {}
    for rule, value in _jobs(study, models, rate):
        found.setdefault(rule, []).append(value)
    return found


def wall(work: Mapping[str, float], longest: Mapping[str, float], cores: int) -> float:
    """Seconds that a study takes on so many cores: all of them busy, or its rules one after the other, if that is longer.

    `work`: seconds of one core of all jobs of a rule; a timing keeps the other cores idle. `longest`: of a rule's longest job.
    """
    timed = work.get("measure", 0.0)
    return max(timed + (sum(work.values()) - timed) / cores, sum(longest.values()))


def _jobs(study: Study, models: Mapping[str, Size], rate: float) -> Iterator[tuple[str, float]]:
    start = _ALONE if study.platform == "ascend" else _SHARED
    for name, model in models.items():
        yield "fetch", start + model.bytes / 100e6
        if study.chosen:
            yield "fetch", start  # its card and licence, for checkpoints
        for _ in _turned(study, name):
            yield "rotate", start + model.bytes / 50e6 + _TURNED * model.parameters * model.hidden / rate
        for _, calibration in _walked(study, name):
            yield "tokens", start
            yield "collect", start + 2 * model.linears * _tokens(study, calibration) / rate
        for recipe in study.chosen:
            tokens = _tokens(study, study.calibration_of(recipe))
            work = quantizing(study.recipes[recipe], model.linears, tokens) / rate
            chunks = study.models[name].chunks
            yield from (("quantize", start + work / chunks) for _ in range(chunks))
            if (rescue := study.recipes[recipe].rescue) is not None:
                yield "rescue", start + work * rescue.budget
        architecture = config_of(study, name)
        for _ in study.checkpoints(architecture):
            yield "export", start + model.bytes / 50e6
            yield "verify", start + model.bytes / 50e6 + 3 * 2 * model.parameters * 8 * 512 / rate
        for suite in study.suites.values():
            variants = study.variants(suite, architecture)
            for task in suite.tasks:
                asking = start + _asking(study.tasks[task], model, suite.batch_size, rate)
                for _ in range(len(variants) * len(suite.seeds)):
                    yield from (("generate", asking), ("score", start))
        for timing in study.latency.values():
            steps = (timing.repetitions + timing.warmup) * sum(shape.new_tokens for shape in timing.shapes())
            for _ in study.variants(timing, architecture):
                yield "measure", start + steps * (_STEP + max(timing.batch_sizes) * 2 * model.parameters / (rate * _DECODING))
    yield "aggregate", start
    yield from (("plot", start) for _ in range(4))


def _walked(study: Study, model: str) -> set[tuple[str, str]]:
    """(Model, rotated or not; calibration set) of each walk of the calibration sets through a model."""
    return {(study.source_of(model, recipe), study.calibration_of(recipe)) for recipe in study.chosen}


def _turned(study: Study, model: str) -> set[str]:
    """The rotated models that are made of a model."""
    return {source for source, _ in _walked(study, model)} - {model}


def _tokens(study: Study, calibration: str) -> int:
    return study.calibrations[calibration].samples * study.calibrations[calibration].sequence_length


def _asking(task: TaskConfig, model: Size, batch: int, rate: float) -> float:
    """Seconds that a model is asked one task, every completion as long as it may be."""
    kind, protocol = task.definition.kind, {**task.definition.defaults, **task.asks}
    if kind == "perplexity":
        return 2 * model.parameters * _text_tokens(task) / rate
    items = _items(task)
    if kind == "generation":
        known: Any = task.PROTOCOL.model_validate({k: v for k, v in protocol.items() if k in task.PROTOCOL.model_fields})
        steps = ceil(items * known.completions / batch) * known.max_new_tokens
        return float(steps * (_STEP + min(batch, items) * 2 * model.parameters / (rate * _DECODING)))
    item = (_CHOICES + int(protocol.get("num_fewshot", 0))) * _CHOICE_TOKENS
    return 2 * model.parameters * items * item / rate


def _items(task: TaskConfig) -> int:
    """Items of a task: its limit, else the rows that are here."""
    if (limit := task.asks.get("limit")) is not None:
        return int(limit)
    return sum(len(load_rows(source)) if source.local is not None else _UNKNOWN_ITEMS for source in task.sources)


def _text_tokens(task: TaskConfig) -> float:
    """Tokens of a text's windows: as many as its limit, else those of its rows, which are joined into one text."""
    if (limit := task.asks.get("limit")) is not None:
        return float(limit * task.asks["window"])
    here = [source for source in task.sources if source.local is not None]
    items = (item for item, _ in items_and_rows("the estimate", task.benchmark, here))
    characters = sum(len(item.text) for item in items if isinstance(item, TextItem))
    return characters / _CHARACTERS + _UNKNOWN_TOKENS * (len(task.sources) - len(here))


def memory(study: Study, configs: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[str, int]:
    """The job that asks for most memory, by its name, and the bytes. `configs`: as of `sizes`."""
    on_device = study.platform != "cpu"
    name, demand = Needs(study, {name: Dimensions.of(config, on_device) for name, config in (configs or {}).items()}).largest()
    return name, demand.mem_mb * MB


def disk(study: Study, models: Mapping[str, Size]) -> int:
    """Bytes that the study leaves: models, rotated ones too, states of calibration, integers and scales, checkpoints."""
    total = 0
    for name, model in models.items():
        architecture = config_of(study, name)
        walked = [_tokens(study, calibration) for _, calibration in _walked(study, name)]
        total += model.bytes * (1 + len(_turned(study, name))) + 4 * sum(walked) * model.hidden * study.models[name].chunks
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
