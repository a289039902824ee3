"""Tasks as the configuration writes them: a benchmark, where its rows are, and departures from its protocol.

The keys of a task are those of its benchmark's kind: how it is asked (`requests/<kind>.py`) and how it is scored
(`scoring/<kind>.py`). A key of another kind is refused. Light enough for the Snakefile.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Tag, TypeAdapter, field_validator, model_validator

from ptqflow.datamodel import Model
from ptqflow.errors import ConfigError
from ptqflow.evaluation import benchmark as benchmarks
from ptqflow.evaluation.items import Benchmark, Kind
from ptqflow.evaluation.requests import choices as choices_requests
from ptqflow.evaluation.requests import generation as generation_requests
from ptqflow.evaluation.requests import perplexity as perplexity_requests
from ptqflow.evaluation.scoring import choices as choices_scoring
from ptqflow.evaluation.scoring import generation as generation_scoring
from ptqflow.evaluation.scoring import perplexity as perplexity_scoring
from ptqflow.sources import Source, Sources, each


class _Task(Model):
    """Keys left out take the benchmark's defaults, then the protocol's. `source`: one, or several whose rows are one task."""

    PROTOCOL: ClassVar[type[Model]]
    METRIC: ClassVar[type[Model]]

    benchmark: str
    source: Sources

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, entry: Any) -> Any:
        name = entry.get("benchmark") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or name not in benchmarks.known_benchmarks():
            return entry
        own: Benchmark = benchmarks.load(name).BENCHMARK
        foreign = [k for k in entry if k not in cls.model_fields and any(k in kind.model_fields for kind in KINDS.values())]
        if foreign:
            raise ValueError(f"{', '.join(foreign)} means nothing to {name}, a {own.kind} benchmark; remove it")
        return {**own.defaults, **entry}

    @field_validator("benchmark")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            benchmarks.module_of(name)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return name

    @property
    def definition(self) -> Benchmark:
        """The benchmark's definition."""
        found: Benchmark = benchmarks.load(self.benchmark).BENCHMARK
        return found

    @property
    def sources(self) -> list[Source]:
        """Where its rows are, in order."""
        return each(self.source)

    @property
    def read(self) -> list[Source]:
        """All whose rows are read to ask it."""
        return self.sources

    @property
    def asks(self) -> dict[str, Any]:
        """How it is asked: the keys that a generation depends on."""
        return self.model_dump(mode="json", include=set(self.PROTOCOL.model_fields), exclude_none=True)

    @property
    def metric(self) -> dict[str, Any]:
        """How it is scored: the keys that a verdict depends on."""
        return self.model_dump(mode="json", include=set(self.METRIC.model_fields), exclude_none=True)


class GenerationTask(_Task, generation_requests.Protocol, generation_scoring.Metric):
    """A task answered in words. `temperature` 0 is greedy; `scorer` `legacy` reads answers inside the thinking, too;
    `protocol: aisbench` asks in AISBench's words, and reads answers as it does unless `scorer` says otherwise.
    """

    PROTOCOL, METRIC = generation_requests.Protocol, generation_scoring.Metric

    @model_validator(mode="before")
    @classmethod
    def _scorer(cls, entry: Any) -> Any:
        asked = isinstance(entry, Mapping) and entry.get("protocol") == "aisbench"
        return {"scorer": "aisbench", **entry} if asked else entry


class ChoicesTask(_Task, choices_requests.Protocol, choices_scoring.Metric):
    """A task of alternatives. `bos`: begin each context with BOS; `num_fewshot` solved examples before it, of the rows of
    `examples`; `normalization`: of log-likelihoods, by length.
    """

    PROTOCOL, METRIC = choices_requests.Protocol, choices_scoring.Metric

    @property
    def read(self) -> list[Source]:
        """Its rows, then those of its examples."""
        return [*self.sources, *([self.examples] if self.examples else [])]


class PerplexityTask(_Task, perplexity_requests.Protocol, perplexity_scoring.Metric):
    """A text. `window` tokens per window; `limit` counts windows."""

    PROTOCOL, METRIC = perplexity_requests.Protocol, perplexity_scoring.Metric


KINDS: dict[Kind, type[_Task]] = {"generation": GenerationTask, "choices": ChoicesTask, "perplexity": PerplexityTask}


def _kind(entry: Any) -> str:
    """The tag of an entry's model; an entry without a known benchmark is refused by whichever model gets it."""
    name = entry.get("benchmark") if isinstance(entry, Mapping) else getattr(entry, "benchmark", None)
    known = isinstance(name, str) and name in benchmarks.known_benchmarks()
    return f"[{benchmarks.load(name).BENCHMARK.kind if known and name else 'generation'}]"


Task = GenerationTask | ChoicesTask | PerplexityTask
TaskConfig = Annotated[
    Annotated[GenerationTask, Tag("[generation]")]
    | Annotated[ChoicesTask, Tag("[choices]")]
    | Annotated[PerplexityTask, Tag("[perplexity]")],
    Discriminator(_kind),
]
_ADAPTER: TypeAdapter[Task] = TypeAdapter(TaskConfig)


def task(entry: Mapping[str, Any]) -> Task:
    """The task that an entry of `tasks` describes. Raises pydantic's ValidationError."""
    return _ADAPTER.validate_python(entry)


def generating(entry: Task) -> list[str]:
    """The modules that `generate` finds by name for a task, for its digest: of the benchmark's file, only what asks."""
    return [f"{benchmarks.module_of(entry.benchmark)}:item", f"evaluation.requests.{entry.definition.kind}"]


def scoring(entry: Task) -> list[str]:
    """The modules that `score` finds by name for a task, for its digest: of the benchmark's file, only what scores."""
    return [f"{benchmarks.module_of(entry.benchmark)}:score", f"evaluation.scoring.{entry.definition.kind}"]


def benchmarks_of(kind: Kind) -> list[str]:
    """Names of the benchmarks of a kind."""
    return [name for name in benchmarks.known_benchmarks() if benchmarks.load(name).BENCHMARK.kind == kind]
