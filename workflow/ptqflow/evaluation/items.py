"""What a benchmark is: a kind, a version, defaults; and the items that its rows become."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations
from string import ascii_uppercase
from typing import Any, Literal

Kind = Literal["generation", "choices", "perplexity"]
Row = Mapping[str, Any]

# The user's turn by protocol; {problem} is the data set's. AISBench (AISBench/benchmark@29c363e) puts one newline less.
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
REASONING = {"paper": f"{{problem}}\n\n{INSTRUCTION}", "aisbench": f"{{problem}}\n{INSTRUCTION}"}


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's file `benchmarks/<name>.py` holds this as BENCHMARK and, beside it, two functions:

    `item(row, index)`: what is asked, and the gold answer; it must depend on nothing else;
    `score(row, metric)`: the verdict on one row of schema GENERATIONS (extraction and comparison).

    `version` is raised whenever its scores are no longer comparable with those before; `defaults` are keys of a task;
    `published` is the number of items behind published scores, where a data set is known to come in other sizes;
    `judged_by_rows`: what is right is too large for `gold`, which is its digest; `score` finds the data set's row under `data`.
    """

    kind: Kind
    version: int = 1
    defaults: Mapping[str, Any] = field(default_factory=dict)
    published: int | None = None
    judged_by_rows: bool = False


@dataclass(frozen=True)
class Asked:
    """A problem as it is put to a model at one seed: the user's turn, and the answer to it.

    `options`: of a problem with lettered options, which of the data set's each letter shows, in the order of letters.
    """

    prompt: str
    gold: str
    options: tuple[int, ...] | None = None


@dataclass(frozen=True)
class GenerationItem:
    """A problem answered in words; `gold` is the bare final answer (LaTeX or a number, not boxed)."""

    id: str
    problem: str
    gold: str
    prompts: Mapping[str, str] = field(default_factory=lambda: REASONING, compare=False)

    def __post_init__(self) -> None:
        if self.gold.strip() in ("", "None", "nan"):
            raise ValueError("it has no answer")
        if not isinstance(self.problem, str) or not self.problem.strip():
            raise ValueError("it has no text to ask")

    def asked(self, protocol: str, seed: int) -> Asked:
        """The problem in the words of `protocol`; the seed changes nothing of it."""
        return Asked(self.prompts[protocol].replace("{problem}", self.problem), self.gold)


@dataclass(frozen=True)
class LetteredItem(GenerationItem):
    """A problem with options, of which the completion names the letter; the data set's first option is the right one.

    A fixed order would reward a taste for one letter, a global generator makes it depend on what was asked before: each
    (item, seed) has its own. AISBench's is one of four, by the number of the row.
    """

    options: tuple[str, ...] = ()
    row: int = 0

    def asked(self, protocol: str, seed: int) -> Asked:
        """The problem and its options, in their order at `seed`."""
        count = len(self.options)
        if protocol == "aisbench":
            order = tuple((letter + self.row + 1) % count for letter in range(count))
        else:
            key = json.dumps([seed, self.id]).encode()
            orders = list(permutations(range(count)))
            order = orders[int.from_bytes(hashlib.sha256(key).digest()[:8]) % len(orders)]
        shown = "\n".join(f"{letter}) {self.options[option]}" for letter, option in zip(ascii_uppercase, order, strict=False))
        return Asked(super().asked(protocol, seed).prompt.replace("{options}", shown), ascii_uppercase[order.index(0)], order)


@dataclass(frozen=True)
class ChoiceItem:
    """Alternatives compared by the log-likelihood of a continuation after its context.

    One context with n continuations (the usual case), or n contexts that share one continuation (partial evaluation).
    With a single alternative the question is whether greedy decoding produces it. `gold` is the index of the right one; without
    one (test splits hide it as -1) ValueError is raised. `joint`: where the item is shown as a solved example, what stands
    between context and continuation, beside the continuation's own space.
    """

    id: str
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int
    joint: str = ""

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
