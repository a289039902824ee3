"""What a benchmark is: a kind, a version, defaults; and the items that its rows become."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["generation", "choices", "perplexity"]
Row = Mapping[str, Any]

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's file `benchmarks/<name>.py` holds this as BENCHMARK and, beside it, two functions:

    `item(row, index)`: what is asked, and the gold answer; it must depend on nothing else;
    `score(row, metric)`: the verdict on one row of schema GENERATIONS (extraction and comparison).

    `version` is raised whenever its scores are no longer comparable with those before; `defaults` are keys of a task.
    """

    kind: Kind
    version: int = 1
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationItem:
    """A problem answered in words; `gold` is the bare final answer (LaTeX or a number, not boxed)."""

    id: str
    problem: str
    gold: str

    def __post_init__(self) -> None:
        if self.gold.strip() in ("", "None", "nan"):
            raise ValueError("it has no answer")
        if not isinstance(self.problem, str) or not self.problem.strip():
            raise ValueError("it has no text to ask")

    @property
    def prompt(self) -> str:
        """The user's turn: the problem, then the instruction of the DeepSeek-R1 protocol."""
        return f"{self.problem}\n\n{INSTRUCTION}"


@dataclass(frozen=True)
class ChoiceItem:
    """Alternatives compared by the log-likelihood of a continuation after its context.

    One context with n continuations (the usual case), or n contexts that share one continuation (partial evaluation).
    With a single alternative the question is whether greedy decoding produces it. `gold` is the index of the right one; without
    one (test splits hide it as -1) ValueError is raised.
    """

    id: str
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int

    def __post_init__(self) -> None:
        choices = max(len(self.contexts), len(self.continuations)) if self.continuations else 0
        if type(self.gold) is not int or not 0 <= self.gold < choices:
            raise ValueError(f"answer {self.gold!r} is no index of {choices} choices")

    @property
    def alternatives(self) -> tuple[tuple[str, str], ...]:
        """(context, continuation) of each alternative."""
        n = max(len(self.contexts), len(self.continuations))
        return tuple(
            zip(self.contexts * (n // len(self.contexts)), self.continuations * (n // len(self.continuations)), strict=True)
        )


@dataclass(frozen=True)
class TextItem:
    """A passage of the stream whose perplexity is measured."""

    id: str
    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"its text is a {type(self.text).__name__}")


Item = GenerationItem | ChoiceItem | TextItem
