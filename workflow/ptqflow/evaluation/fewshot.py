"""Solved examples before what is asked (few-shot), as lm-eval (0.4.13) puts them there with its sampler `first_n`.

    example   context, right continuation, blank line
    asked     example 1, ..., example n, context of the item

The examples are the first n of their source, for each item the same: nothing is drawn. An item that is one of them is asked
behind the next one instead, wherever the examples come from (lm-eval leaves it out of the test split alone).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from ptqflow.errors import ArtifactError
from ptqflow.evaluation import benchmark as benchmarks
from ptqflow.evaluation.items import ChoiceItem, Item
from ptqflow.sources import Source


def examples(who: str, benchmark: str, source: Source, count: int) -> list[ChoiceItem]:
    """The first `count` + 1 different items of a source: one to spare. Raises ArtifactError where there are not even `count`."""
    found = list(islice(_different(who, benchmark, source), count + 1))
    if len(found) < count:
        raise ArtifactError(f"{who}: {source.label} holds {len(found)} examples, not {count}; lower num_fewshot")
    return found


def behind(items: Sequence[Item], shown: Sequence[ChoiceItem], count: int) -> list[Item]:
    """The items, each behind the first `count` of the examples `shown` that are not itself.

    Raises ArtifactError for an item that fewer examples are left for.
    """
    return [_behind(_choice(item), shown, count) for item in items]


def _behind(item: ChoiceItem, shown: Sequence[ChoiceItem], count: int) -> ChoiceItem:
    others = [example for example in shown if example.alternatives != item.alternatives][:count]
    if len(others) < count:
        raise ArtifactError(f"item {item.id} is one of the {count} examples, and there is no other; lower num_fewshot")
    before = "".join(map(_solved, others))
    return replace(item, contexts=tuple(before + context for context in item.contexts))


def _different(who: str, benchmark: str, source: Source) -> Iterator[ChoiceItem]:
    seen = set[tuple[tuple[str, str], ...]]()
    for item in map(_choice, (item for item, _ in benchmarks.items_and_rows(who, benchmark, source))):
        if item.alternatives not in seen:
            seen.add(item.alternatives)
            yield item


def _solved(item: ChoiceItem) -> str:
    context, continuation = item.alternatives[item.gold]
    return f"{context}{item.joint}{continuation}\n\n"


def _choice(item: Item) -> ChoiceItem:
    assert isinstance(item, ChoiceItem), "num_fewshot is a key of tasks of choices alone"
    return item
