"""Gold answers must score 100 %, and the answers of other items the chance level: real rows, our own prompts, tokens and scorers.

An oracle stands in for a model: of a choice it prefers the alternative that it was told, to a problem it writes the answer that
it was told. Chance is counted apart from the scorers: how often an item's gold and the one that it is given are the same.
"""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import real_tasks
from ptqflow.engines.protocol import Completion, Likelihood, Sampling
from ptqflow.evaluation import benchmark
from ptqflow.evaluation.items import ChoiceItem, GenerationItem, Item
from ptqflow.evaluation.requests import choices, generation
from ptqflow.evaluation.scoring.choices import Metric as ChoiceMetric
from ptqflow.evaluation.scoring.generation import Metric as AnswerMetric


@dataclass
class Oracle:
    """An engine that knows what to answer: `told` of each request in turn, a completion's text or whether to like a pair."""

    tokenizer: Any
    told: Sequence[Any]
    max_length: int | None = None
    vocab_size: int = 1 << 30

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        batch_size: int,
        skip: Collection[int] = (),
    ) -> Iterator[tuple[int, Completion]]:
        """The answer that it was told, boxed."""
        for index, text in enumerate(self.told):
            ids = self.tokenizer(text, add_special_tokens=False).input_ids
            yield index, Completion((*ids, self.tokenizer.eos_token_id), "stop", 0.0)

    def loglikelihoods(
        self, contexts: Sequence[Any], continuations: Sequence[Any], batch_size: int, skip: Collection[int] = ()
    ) -> Iterator[dict[int, Likelihood]]:
        """0 for what it likes, a certainty; else so little that no length makes up for it."""
        yield {pair: Likelihood(0.0 if liked else -1e6, liked) for pair, liked in enumerate(self.told)}


def items(root: Path | None, name: str) -> list[Item] | None:
    """All items of a data set; None where it is not at hand."""
    place = real_tasks.rows(name, root or real_tasks.RESOURCES)
    return benchmark.load_items(name, *place) if place else None


def scores(name: str, found: Sequence[Item], tokenizer: Any) -> dict[str, int]:
    """How many items are right by their `gold`, by the `shuffled` answers, and by `chance`: where these two are the same."""
    module = benchmark.load(real_tasks.TASKS[name][0])
    order = list(range(len(found)))
    random.Random(0).shuffle(order)
    if isinstance(found[0], ChoiceItem):
        return _choices(name, module, found, order, tokenizer)  # type: ignore[arg-type]
    return _answers(name, module, found, order, tokenizer)  # type: ignore[arg-type]


def _choices(name: str, module: Any, found: Sequence[ChoiceItem], order: Sequence[int], tokenizer: Any) -> dict[str, int]:
    metric = ChoiceMetric.model_validate(module.BENCHMARK.defaults)
    if len(found[0].alternatives) == 1:  # a word to be produced: another item's is, where it is the same
        same = [found[other].continuations == item.continuations for item, other in zip(found, order, strict=True)]
        told = {"gold": [True] * len(found), "shuffled": same}
        chance = sum(same)
    else:
        golds = [found[other].gold % len(item.alternatives) for item, other in zip(found, order, strict=True)]
        told = {
            "gold": [n == item.gold for item in found for n in range(len(item.alternatives))],
            "shuffled": [n == gold for item, gold in zip(found, golds, strict=True) for n in range(len(item.alternatives))],
        }
        chance = sum(item.gold == gold for item, gold in zip(found, golds, strict=True))
    right = {}
    for kind, liked in told.items():
        rows = choices.generate(name, found, Oracle(tokenizer, liked), choices.Protocol(), 0, 16)  # type: ignore[arg-type]
        right[kind] = sum(bool(module.score(row, metric).correct) for row in rows)
    return right | {"chance": chance}


def _answers(name: str, module: Any, found: Sequence[GenerationItem], order: Sequence[int], tokenizer: Any) -> dict[str, int]:
    told = {"gold": [item.gold for item in found], "shuffled": [found[other].gold for other in order]}
    right = {}
    for kind, answers in told.items():
        engine = Oracle(tokenizer, [f"Some thought. </think> It is $\\boxed{{{answer}}}$." for answer in answers])
        rows = generation.generate(name, found, engine, generation.Protocol(), 0, 16)  # type: ignore[arg-type]
        right[kind] = sum(bool(module.score(row, AnswerMetric()).correct) for row in rows)
    same = [plain(a) == plain(b) for a, b in zip(told["gold"], told["shuffled"], strict=True)]
    return right | {"chance": sum(same)}


def plain(answer: str) -> Fraction | str:
    """A number by its value, anything else by its spelling without blanks."""
    try:
        return Fraction(answer)
    except ValueError:
        return answer.replace(" ", "")


def row(name: str, root: Path | None, tokenizer: Any) -> Mapping[str, Any]:
    """The row of the table about one data set."""
    head = {"check": "gold and shuffled answers", "data": name, "model": "oracle", "engine": "–", "reference": "–"}
    found = items(root, name)
    if found is None:
        return head | {"passed": None, "message": f"not run: no {real_tasks.TASKS[name][1]} in PTQFLOW_DATA"}
    n, right = len(found), scores(name, found, tokenizer)
    message = ", ".join(f"{kind} {100 * right[kind] / n:.1f} %" for kind in ("gold", "shuffled", "chance"))
    passed = right["gold"] == n and right["shuffled"] == right["chance"]
    differ = n - right["gold"] + abs(right["shuffled"] - right["chance"])
    return head | {"items": n, "compared": 2 * n, "disagreements": differ, "passed": passed, "message": message}
