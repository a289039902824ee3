"""How much of each item stands in a calibration set: shared n-grams of words.

An item is taken for seen when at least half of its 13-grams of words (Brown et al. 2020 use any) are in the calibration rows; one
of 8 to 12 words when all of it is; a shorter one is not judged, for it may be there by chance. Words are
letters and digits, in one case.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptqflow.evaluation.items import ChoiceItem, GenerationItem, Item

LONGEST, SHORTEST = 13, 8
SEEN = 0.5  # share of an item's n-grams
MARKED = 0.01  # share of a task's judged items, above which its score is marked
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap:
    """Of an item: its n-grams (0: too short to be judged), and how many of them are in the calibration rows."""

    item: str
    ngrams: int
    found: int

    @property
    def seen(self) -> bool:
        """Whether the item is taken for one of the calibration set's."""
        return self.ngrams > 0 and self.found >= SEEN * self.ngrams


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.casefold())


def text_of(item: Item) -> str:
    """What an item asks, with its alternatives; not the words of the protocol around it, which all items share."""
    match item:
        case GenerationItem():
            return "\n".join([item.problem, *getattr(item, "options", ())])
        case ChoiceItem():
            return "\n".join([*item.contexts, *item.continuations])
        case _:
            return item.text


def texts_in(value: Any) -> Iterator[str]:
    """Every text within a row."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from texts_in(entry)
    elif isinstance(value, Sequence):
        for entry in value:
            yield from texts_in(entry)


def _ngrams(said: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(said[start : start + n]) for start in range(len(said) - n + 1))


def overlaps(items: Iterable[Item], rows: Iterable[Mapping[str, Any]]) -> list[Overlap]:
    """The overlap of each item with the texts of calibration rows."""
    asked: dict[str, set[tuple[str, ...]]] = {}
    for item in items:
        said = words(text_of(item))
        asked[item.id] = set(_ngrams(said, min(LONGEST, len(said)))) if len(said) >= SHORTEST else set()
    lengths = {len(ngram) for ngrams in asked.values() for ngram in ngrams}
    wanted = set().union(*asked.values())
    found = {
        ngram
        for row in rows
        for text in texts_in(row)
        for said in [words(text)]
        for n in lengths
        for ngram in _ngrams(said, n)
        if ngram in wanted
    }
    return [Overlap(item, len(ngrams), len(ngrams & found)) for item, ngrams in asked.items()]
