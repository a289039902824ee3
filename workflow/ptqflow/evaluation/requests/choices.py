"""Log-likelihoods of alternatives, as lm-eval (0.4.9.1) asks for them.

Context and continuation are tokenized together and split at the context's length: apart, a SentencePiece tokenizer would begin
the continuation with a second word boundary. Spaces at the end of a context belong to the continuation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from ptqflow.artifacts.journal import Journal
from ptqflow.errors import ConfigError
from ptqflow.evaluation.hashing import requests_sha256, tokens_sha256
from ptqflow.evaluation.items import ChoiceItem
from ptqflow.evaluation.requests.known import refuse_unknown
from ptqflow.evaluation.requests.limited import Limited
from ptqflow.progress import progress, timed
from ptqflow.sources import Source
from ptqflow.tokenizing import tokenizing

if TYPE_CHECKING:
    from ptqflow.engines.protocol import Engine


class Protocol(Limited):
    """`bos`: put before each context what the tokenizer puts before a text. The published protocol (lm-eval 0.4.9.1) does not.

    `num_fewshot`: solved examples before each item, the first rows of the source `examples` (`evaluation/fewshot.py`).
    """

    bos: bool = False
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    examples: Source | None = None

    @model_validator(mode="after")
    def _examples_come_from_somewhere(self) -> "Protocol":
        if (self.num_fewshot > 0) != (self.examples is not None):
            raise ValueError("num_fewshot and examples go together: how many solved examples, and the source of their rows")
        return self


def beginning(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before a text: BOS, or nothing."""
    bare, whole = tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return list(whole[:start])
    return []


def encode(tokenizer: Any, context: str, continuation: str, first: Sequence[int]) -> tuple[list[int], list[int]]:
    """Token ids of a context, begun with `first`, and of its continuation; neither is empty.

    A context without tokens is BOS, or where there is none EOS. A continuation that adds no token to its context is the last
    token of both together.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    before, whole = ids(context) if context else [], ids(context + continuation)
    after = whole[len(before) :]
    if not after:
        before, after = whole[:-1], whole[-1:]
    if not after:
        raise ConfigError(f"the alternative {continuation!r} has no tokens; leave its item out")
    before = [*first, *before]
    if not before:
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if start is None:
            raise ConfigError("an empty context needs the tokenizer's BOS or EOS token, and it has neither; leave its item out")
        before = [start]
    return before, after


def generate(
    task: str,
    items: Sequence[ChoiceItem],
    engine: "Engine",
    protocol: Protocol,
    seed: int,
    batch_size: int | None,
    journal: Journal | None = None,
) -> list[dict[str, Any]]:
    """One row of schema GENERATIONS per item: `choice_logprobs` in nats, and the lengths that a metric may divide them by.

    The characters and bytes of an alternative are counted without the space that joins it to the context, as lm-eval's acc_norm.
    What the journal keeps is not asked again.
    """
    journal = journal or Journal()
    with tokenizing(f"task {task}"):
        first = beginning(engine.tokenizer) if protocol.bos else []
        pairs = [[encode(engine.tokenizer, *alternative, first) for alternative in item.alternatives] for item in items]
    flat = [pair for alternatives in pairs for pair in alternatives]
    for (context, continuation), text in zip(flat, (a[0] for item in items for a in item.alternatives), strict=True):
        if engine.max_length is not None and len(context) + len(continuation) > engine.max_length:
            raise ConfigError(
                f"an item of {len(context) + len(continuation)} tokens exceeds the model's {engine.max_length} positions: "
                f"{text[:60]!r}; use a model with more positions, or fewer examples"
            )
    refuse_unknown(task, (token for pair in flat for part in pair for token in part), engine)
    with progress(task, len(flat), "alternatives") as bar:
        bar.update(journal.open(requests_sha256(flat)))
        asked = engine.loglikelihoods([c for c, _ in flat], [c for _, c in flat], batch_size, frozenset(journal.results))
        for likelihoods, seconds in timed(asked):
            share = {"seconds": seconds / len(likelihoods)}
            journal.add({pair: asdict(likelihood) | share for pair, likelihood in likelihoods.items()})
            bar.update(len(likelihoods))
    found = (journal.results[pair] for pair in range(len(flat)))
    return [
        _row(item, alternatives, [next(found) for _ in alternatives]) for item, alternatives in zip(items, pairs, strict=True)
    ]


def _row(
    item: ChoiceItem, pairs: Sequence[tuple[list[int], list[int]]], likelihoods: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    contexts = [context for context, _ in pairs][:: len(pairs) // len(item.contexts)]  # a shared one once
    texts = [continuation.removeprefix(" ") for _, continuation in item.alternatives]
    return {
        "item": item.id,
        "completion": 0,
        "gold": str(item.gold),
        "prompt_sha256": tokens_sha256([token for context in contexts for token in context]),
        "prompt_tokens": sum(map(len, contexts)),
        "completion_tokens": sum(len(continuation) for _, continuation in pairs),
        "seconds": sum(likelihood["seconds"] for likelihood in likelihoods),
        "choice_logprobs": [likelihood["logprob"] for likelihood in likelihoods],
        "choice_greedy": [likelihood["greedy"] for likelihood in likelihoods],
        "choice_tokens": [len(continuation) for _, continuation in pairs],
        "choice_characters": [len(text) for text in texts],
        "choice_bytes": [len(text.encode()) for text in texts],
    }
