"""Continuations of one context in one row, behind it: it is computed once, and each continuation sees it and itself alone.

    row        c0 c1 c2 | a0 a1 | b0 b1 b2
    position    0  1  2 |  3  4 |  3  4  5
    a1 sees    c0 c1 c2   a0 a1

Each token sees the tokens, at the positions, that it would see in a row of its own, so its log-likelihood is the same up to the
order of sums. Four alternatives of HellaSwag share 60 % of their tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ptqflow.modeling.attention_name import ATTENTION_NAME


@dataclass
class Row:
    """A context and the continuations behind it. `before`: of each pair, the places in the row whose logits tell its tokens."""

    context: int
    tokens: list[int]
    positions: list[int]
    pairs: list[int] = field(default_factory=list)
    before: list[list[int]] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)

    def add(self, pair: int, continuation: Sequence[int]) -> None:
        """Put a continuation behind those that are there; its last token predicts nothing that is asked, and is left out."""
        start, inner = len(self.tokens), list(continuation[:-1])
        self.tokens += inner
        self.positions += range(self.context, self.context + len(inner))
        self.pairs.append(pair)
        self.before.append([self.context - 1, *range(start, len(self.tokens))])
        self.spans.append((start, len(self.tokens)))


def allowed(model: Any) -> bool:
    """Whether mask and positions are all that this model's attention knows of order: it is rotary, full, and sdpa's.

    A sliding window, a recurrent layer or a bias by distance would see the neighbours in the row.
    """
    config = model.config.get_text_config()
    return (
        model.config._attn_implementation in ("sdpa", ATTENTION_NAME)
        and getattr(config, "rope_parameters", None) is not None
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and not any(getattr(config, name, None) for name in ("sliding_window", "alibi", "attention_chunk_size"))
    )


def rows(contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], most: int) -> list[Row]:
    """Rows of pairs of one context, `most` to a row, in the order of their first pairs."""
    found: list[Row] = []
    of_context: dict[tuple[int, ...], Row] = {}
    for pair, (context, continuation) in enumerate(zip(contexts, continuations, strict=True)):
        row = of_context.get(tuple(context))
        if row is None or len(row.pairs) == most:
            row = of_context[tuple(context)] = Row(len(context), list(context), list(range(len(context))))
            found.append(row)
        row.add(pair, continuation)
    return found


def batches(order: Sequence[Row], batch_size: int, positions: int) -> Iterator[list[Row]]:
    """Rows, longest first, by batches of at most `batch_size` pairs and `positions` padded tokens (one row at least)."""
    batch: list[Row] = []
    pairs = 0
    for row in order:
        full = batch and (pairs + len(row.pairs) > batch_size or (len(batch) + 1) * len(batch[0].tokens) > positions)
        if full:
            yield batch
            batch, pairs = [], 0
        batch.append(row)
        pairs += len(row.pairs)
    if batch:
        yield batch


def padded(lists: Sequence[Sequence[int]], width: int) -> Tensor:
    """Integers [rows, width], zeros on the right: any valid token will do for what is padded."""
    found = torch.zeros(len(lists), width, dtype=torch.long)
    for row, values in enumerate(lists):
        found[row, : len(values)] = torch.tensor(values)
    return found


def mask(batch: Sequence[Row], width: int) -> Tensor:
    """What sees what, [rows, 1, query, key]: earlier tokens of the context and of the own continuation, and itself."""
    found = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(batch), 1, 1)
    for index, row in enumerate(batch):
        for start, end in row.spans:
            found[index, end:, start:end] = False
    return found[:, None]
