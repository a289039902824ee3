"""Which completions a study shows: what the baseline got right and a variant wrong first, as many as the page has room for."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Answer = Mapping[str, Any]  # of one item and completion: the columns of GENERATIONS and SAMPLES that are read
LOST, GAINED, NEITHER, BOTH = "lost", "gained", "neither", "both"
_SHARES = {LOST: 0.7, GAINED: 0.85, NEITHER: 0.95, BOTH: 1.0}  # of the room that is spent once an outcome has had its turn
_END = 1500  # characters of a long text that are kept at each end


def outcome(reference: Answer, answer: Answer) -> str:
    """What became of the baseline's answer."""
    if reference["correct"]:
        return BOTH if answer["correct"] else LOST
    return GAINED if answer["correct"] else NEITHER


def cut(text: str) -> str:
    """A text with its middle left out where it is long; how much that was is said."""
    if len(text) <= 2 * _END + 200:
        return text
    return f"{text[:_END]}\n\n[… {len(text) - 2 * _END} characters left out …]\n\n{text[-_END:]}"


def shown(answer: Answer) -> dict[str, Any]:
    """What the page says of an answer: its text or its log-likelihoods, the extracted answer, and how it ended."""
    said = {
        "text": None if answer["text"] is None else cut(answer["text"]),
        "logprobs": None if answer["choice_logprobs"] is None else [_rounded(x) for x in answer["choice_logprobs"]],
        "extracted": answer["extracted"],
        "correct": answer["correct"],
        "tokens": answer["completion_tokens"],
        "ended": answer["finish_reason"],
        "unscored": answer["unscored"],
        "looping": answer["looping"] or None,
        "thinks on": answer["open_thinking"] or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _rounded(logprob: float) -> float | None:
    """None of what JSON has no number for: an alternative that is impossible in half precision has −inf."""
    return round(logprob, 3) if math.isfinite(logprob) else None


def size(said: Mapping[str, Any]) -> int:
    """Bytes of an answer in the page, near enough."""
    return 200 + len((said.get("text") or "").encode()) + 10 * len(said.get("logprobs") or ())


def choose(pairs: Iterable[tuple[Answer, Answer]], room: int) -> tuple[list[tuple[str, Answer]], dict[str, int]]:
    """Of (baseline's, variant's) answers to the same: those shown, each with its outcome, and how many there are of each.

    Within an outcome the order is that of a hash of the item, so that no place in the data set is preferred and all variants
    show the same items where they can. `room` in bytes of the variant's answers; one lost answer is shown whatever its size.
    """
    found: dict[str, list[Answer]] = {name: [] for name in _SHARES}
    for reference, answer in pairs:
        found[outcome(reference, answer)].append(answer)
    kept, spent = list[tuple[str, Answer]](), 0
    for name, share in _SHARES.items():
        for answer in sorted(found[name], key=lambda a: (hashlib.sha256(a["item"].encode()).digest(), a["completion"])):
            spent += size(shown(answer))
            if spent > share * room and (kept or name != LOST):
                spent -= size(shown(answer))
                break
            kept.append((name, answer))
    return kept, {name: len(answers) for name, answers in found.items()}


def key(answer: Answer) -> str:
    """An item and completion, as the page looks it up."""
    return f"{answer['item']} / {answer['completion']}" if answer["completion"] else str(answer["item"])


def question(item: Any, protocol: str, seed: int) -> dict[str, Any]:
    """What was asked of an item, and its answer: the user's turn, or a context with its alternatives."""
    if hasattr(item, "asked"):
        asked = item.asked(protocol, seed)
        return {"prompt": cut(asked.prompt), "gold": cut(asked.gold)}
    alternatives: Sequence[tuple[str, str]] = item.alternatives
    contexts = list(dict.fromkeys(context for context, _ in alternatives))
    if len(contexts) == 1:
        return {"prompt": cut(contexts[0]), "options": [cut(text) for _, text in alternatives], "gold": item.gold}
    return {"prompt": "", "options": [cut(context + text) for context, text in alternatives], "gold": item.gold}
