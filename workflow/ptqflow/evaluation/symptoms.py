"""Signs that a generation went wrong, whatever its answer: a model that collapses first talks in circles, then says nothing.

Of one completion: whether it ends in a loop, never ends its thinking, or says nothing outside of it. That it was cut at the token
limit stands in `finish_reason`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ptqflow.chat import END_THINK, THINK

GRAM, DISTINCT = 4, 0.25  # tokens of an n-gram; a tail with so few distinct ones among its n-grams repeats itself
WINDOWS = (128, 512, 2048, 8192)  # tokens of a tail: a loop of a long paragraph shows in a long one only


def of(row: Mapping[str, Any]) -> dict[str, bool | None]:
    """Columns `looping`, `open_thinking` (null: the model does not think) and `silent` of a row of schema GENERATIONS.

    All null where nothing was generated.
    """
    if row.get("text") is None or row.get("tokens") is None:
        return {"looping": None, "open_thinking": None, "silent": None}
    thinking = bool(row.get("thinking"))
    is_open = _thinks_on(row["text"], thinking) if thinking or THINK in row["text"] or END_THINK in row["text"] else None
    return {"looping": is_looping(row["tokens"]), "open_thinking": is_open, "silent": not _said(row["text"], thinking).strip()}


def is_looping(tokens: Sequence[int]) -> bool:
    """Whether the end of a completion repeats itself: a quarter or less of the n-grams of some tail are distinct."""
    lengths = {length for length in WINDOWS if length < len(tokens)} | ({len(tokens)} if len(tokens) >= WINDOWS[0] else set())
    for length in lengths:
        tail = tokens[-length:]
        grams = {tuple(tail[i : i + GRAM]) for i in range(length - GRAM + 1)}
        if len(grams) <= DISTINCT * (length - GRAM + 1):
            return True
    return False


def _sections(text: str, thinking: bool) -> list[tuple[bool, str]]:
    """(within thinking, text) of each section, marks left out."""
    found = []
    for part in re.split(f"({THINK}|{END_THINK})", text):
        if part in (THINK, END_THINK):
            thinking = part == THINK
        else:
            found.append((thinking, part))
    return found


def _thinks_on(text: str, thinking: bool) -> bool:
    return _sections(text, thinking)[-1][0]


def _said(text: str, thinking: bool) -> str:
    return "".join(part for within, part in _sections(text, thinking) if not within)
