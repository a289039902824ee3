"""Negative log-likelihoods of non-overlapping windows of one token stream.

The rows are joined by blank lines, unfiltered, and tokenized once; the tail that fills no window is dropped. In a window of
L tokens, L-1 are predicted. Windows are equally long, so that exp(mean of window means) and exp(total nll / total tokens), the
two conventions in use, are the same number.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ptqflow.artifacts.journal import Journal
from ptqflow.errors import ConfigError
from ptqflow.evaluation.hashing import requests_sha256, tokens_sha256
from ptqflow.evaluation.items import TextItem
from ptqflow.evaluation.requests.known import refuse_unknown
from ptqflow.evaluation.requests.limited import Limited
from ptqflow.progress import progress, timed
from ptqflow.tokenizing import tokenizing

if TYPE_CHECKING:
    import torch

    from ptqflow.engines.protocol import Engine


class Protocol(Limited):
    """`window`: tokens per window."""

    window: Annotated[int, Field(ge=2)] = 2048


def windows(tokens: list[int], length: int, limit: int | None = None) -> "torch.Tensor":
    """[n, length] int64: the first `limit` non-overlapping windows of a token stream; n is 0 when it is too short."""
    import torch

    count = min(len(tokens) // length, limit or len(tokens))
    return torch.tensor(tokens[: count * length], dtype=torch.long).view(count, length)


def generate(
    task: str,
    items: Sequence[TextItem],
    engine: "Engine",
    protocol: Protocol,
    seed: int,
    batch_size: int | None,
    journal: Journal | None = None,
) -> list[dict[str, Any]]:
    """One row of schema GENERATIONS per window: `nll` in nats, summed over its `completion_tokens` = L-1 targets.

    What the journal keeps is not asked again. Raises ConfigError when no window fits the text or the model.
    """
    journal = journal or Journal()
    window = protocol.window
    if engine.max_length is not None and window > engine.max_length:
        raise ConfigError(f"task {task}: window {window} exceeds the model's {engine.max_length} positions; set a smaller window")
    # The stream begins with whatever the tokenizer puts before a text (BOS, for some).
    with tokenizing(f"task {task}"):
        stream = engine.tokenizer("\n\n".join(item.text for item in items), verbose=False).input_ids
    batch = windows(stream, window, protocol.limit)
    if len(batch) == 0:
        raise ConfigError(
            f"task {task}: its text has {len(stream)} tokens, fewer than one window of {window}; set a smaller window"
        )
    refuse_unknown(task, stream[: batch.numel()], engine)
    with progress(task, len(batch), "windows") as bar:
        bar.update(journal.open(requests_sha256(batch.tolist())))
        for (indices, nll), seconds in timed(engine.score(batch, batch_size, frozenset(journal.results))):
            sums = zip(indices, nll.sum(-1).tolist(), strict=True)
            journal.add({index: {"nll": value, "seconds": seconds / len(indices)} for index, value in sums})
            bar.update(len(indices))
    return [
        {
            "item": f"{index:06d}",
            "completion": 0,
            "prompt_sha256": tokens_sha256(tokens),
            "prompt_tokens": window,
            "completion_tokens": window - 1,
            **journal.results[index],
        }
        for index, tokens in enumerate(batch.tolist())
    ]
