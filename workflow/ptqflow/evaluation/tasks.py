"""Tasks as the configuration writes them: a benchmark, where its rows are, and departures from its protocol.

Light enough for the Snakefile: benchmark definitions are pure Python and imported by name.
"""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ptqflow.datamodel import Model
from ptqflow.errors import ArtifactError
from ptqflow.evaluation.items import Benchmark, Item
from ptqflow.sources import Source

_PACKAGE = "ptqflow.evaluation.benchmarks"
_KIND_MODULES = {"reasoning": "reasoning", "choice": "choices", "perplexity": "perplexity"}

# The keys each kind understands, with the protocol of the source paper as defaults.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "reasoning": {
        "max_new_tokens": 32768,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 0,
        "completions": 1,
        "scorer": "final",
    },
    "choice": {"normalization": "none"},
    "perplexity": {"window": 2048},
}


class TaskConfig(Model):
    """One task of a suite. Keys left out take the benchmark's defaults; keys of another kind are refused.

    `limit`: the first n items in the order of the data set's files (perplexity: the first n windows).
    Reasoning: `temperature` 0 is greedy; `top_p` 1 and `top_k` 0 are off; `completions` per item and seed; `scorer`: `final`
    reads the answer after the end of thinking only, `legacy` anywhere in the completion, as the published protocol does.
    Choice: `normalization` divides log-likelihoods by the length of the choice in `characters` (acc_norm), or not.
    Perplexity: `window` tokens per window.
    """

    benchmark: str
    source: Source
    limit: Annotated[int, Field(ge=1)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    completions: Annotated[int, Field(ge=1)] | None = None
    scorer: Literal["final", "legacy"] | None = None
    normalization: Literal["none", "characters"] | None = None
    window: Annotated[int, Field(ge=2)] | None = None

    @field_validator("benchmark")
    @classmethod
    def _known(cls, name: str) -> str:
        if name.replace("_", "-") not in known_benchmarks():
            raise ValueError(f"unknown benchmark {name!r}; known benchmarks: {', '.join(known_benchmarks())}")
        return name

    @model_validator(mode="after")
    def _keys_of_its_kind(self) -> "TaskConfig":
        kind = self.definition.kind
        foreign = [k for other in _DEFAULTS.values() for k in other if k not in _DEFAULTS[kind] and getattr(self, k) is not None]
        if foreign:
            raise ValueError(f"{', '.join(foreign)} means nothing to {self.benchmark}, a {kind} benchmark; remove it")
        return self

    @property
    def definition(self) -> Benchmark:
        """The benchmark's definition."""
        benchmark: Benchmark = import_module(_module(self.benchmark)).BENCHMARK
        return benchmark

    def resolved(self) -> "TaskConfig":
        """The same task with every key of its kind filled in: its own, else the benchmark's, else the protocol's."""
        own = self.model_dump(exclude_none=True)
        return TaskConfig.model_validate({**_DEFAULTS[self.definition.kind], **self.definition.defaults, **own})


def _module(benchmark: str) -> str:
    return f"{_PACKAGE}.{benchmark.replace('-', '_')}"


def known_benchmarks() -> list[str]:
    """Names of the benchmarks that ship (a new one is one new file beside them)."""
    return sorted(
        path.stem.replace("_", "-") for path in Path(__file__).with_name("benchmarks").glob("*.py") if path.stem != "__init__"
    )


def kind_module(task: TaskConfig) -> str:
    """The module that evaluates tasks of this kind; it offers `evaluate(name, task, items, engine, seed, batch_size)`."""
    return f"ptqflow.evaluation.{_KIND_MODULES[task.definition.kind]}"


def modules(task: TaskConfig) -> list[str]:
    """The modules a job imports by name for `task`, for its code digest."""
    return [_module(task.benchmark), kind_module(task)]


class _Row(dict[str, Any]):
    """A row whose columns hold something where a benchmark reads them: null would become the text "None"."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if value is None or (isinstance(value, list) and None in value):
            raise ValueError(f"{key} is null")
        return value


def load_items(name: str, task: TaskConfig) -> list[Item]:
    """The items of task `name` in file order, limited (a text is limited later, by windows).

    Raises ArtifactError when there are none, and for odd rows.
    """
    from ptqflow.artifacts.datasets import load_rows

    definition = task.definition
    rows = load_rows(task.source)
    if not rows:
        raise ArtifactError(f"task {name}: {task.source.label} holds no rows; correct subset or split, or leave the task out")
    if definition.kind != "perplexity":
        rows = rows[: task.limit]
    items = []
    for index, row in enumerate(rows):
        try:
            items.append(definition.item(_Row(row), index))
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"task {name}: row {index} of {task.source.label} is not a row of {task.benchmark} "
                f"({type(error).__name__}: {error}); correct benchmark, subset or split"
            ) from None
    ids = {item.id for item in items}
    if len(ids) != len(items):
        raise ArtifactError(f"task {name}: ids repeat in {task.source.label}; give each row its own id")
    return items
