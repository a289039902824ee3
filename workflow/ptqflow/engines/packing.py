"""Pairs that begin alike in one row: what they share is computed once, and each goes on behind it, seeing that and itself alone.

    row        c0 c1 c2 | a0 a1 | b0 b1 b2
    position    0  1  2 |  3  4 |  3  4  5
    a1 sees    c0 c1 c2   a0 a1

Each token sees the tokens, at the positions, that it would see in a row of its own, so its log-likelihood is the same up to the
order of sums. Shared is the context, for HellaSwag 60 % of the tokens; where that pays, also the beginning of all continuations
(PIQA's differ by a few words) or of contexts that follow each other (WinoGrande's differ by one name).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ptqflow.modeling.attention_name import ATTENTION_NAME

_WORTH = 8  # tokens: what saves fewer is left as it is


@dataclass
class Row:
    """What its pairs share, and the rest of each behind it. `before`: of each pair, the places whose logits tell its tokens."""

    shared: int
    tokens: list[int]
    positions: list[int]
    pairs: list[int] = field(default_factory=list)
    before: list[list[int]] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)

    def add(self, pair: int, sequence: Sequence[int], context: int) -> None:
        """Put behind what is there the rest of a pair's tokens, of which the first `context` are its context."""
        start, rest = len(self.tokens), sequence[self.shared :]
        self.tokens += rest
        self.positions += range(self.shared, len(sequence))
        self.pairs.append(pair)
        places = [*range(self.shared), *range(start, len(self.tokens))]
        self.before.append(places[context - 1 :])
        self.spans.append((start, len(self.tokens)))


def switch(config: Any) -> int | None:
    """Sequences of more positions have other rotary factors, at all of them (`longrope`); None: factors are always the same."""
    rotary = getattr(config, "rope_parameters", None) or {}
    return rotary["original_max_position_embeddings"] if rotary.get("rope_type") == "longrope" else None


def allowed(model: Any) -> bool:
    """Whether mask and positions are all that this model's attention knows of order: it is rotary, full, and sdpa's.

    A sliding window, a recurrent layer or a bias by distance would see the neighbours in the row; `longrope` would turn all pairs
    by the factors of the longest.
    """
    config = model.config.get_text_config()
    return (
        model.config._attn_implementation in ("sdpa", ATTENTION_NAME)
        and getattr(config, "rope_parameters", None) is not None
        and switch(config) is None
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and not any(getattr(config, name, None) for name in ("sliding_window", "alibi", "attention_chunk_size"))
    )


def rows(contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], most: int) -> list[Row]:
    """Rows of pairs that begin alike, `most` to a row, in the order of their first pairs.

    The last token of a continuation predicts nothing that is asked, and is left out.
    """
    sequences = [(*context, *after[:-1]) for context, after in zip(contexts, continuations, strict=True)]
    found = []
    for group in _neighbours(_of_one_context(contexts, most), sequences, most):
        common, context = _common([sequences[pair] for pair in group]), len(contexts[group[0]])
        one_context = all(contexts[pair] == contexts[group[0]] for pair in group)
        shared = context if one_context and (len(group) == 1 or common < context + _WORTH) else common
        tokens = list(sequences[group[0]][:shared])
        row = Row(shared, tokens, list(range(shared)))
        for pair in group:
            row.add(pair, sequences[pair], len(contexts[pair]))
        found.append(row)
    return found


def _of_one_context(contexts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """Pairs by their context, `most` together."""
    groups: list[list[int]] = []
    of_context: dict[tuple[int, ...], list[int]] = {}
    for pair, context in enumerate(map(tuple, contexts)):
        group = of_context.get(context)
        if group is None or len(group) == most:
            group = of_context[context] = []
            groups.append(group)
        group.append(pair)
    return groups


def _neighbours(groups: Sequence[list[int]], sequences: Sequence[tuple[int, ...]], most: int) -> list[list[int]]:
    """The groups, single pairs that follow each other together as long as that saves tokens."""
    found: list[list[int]] = []
    shared = 0
    for group in groups:
        last = found[-1] if found else []
        if len(group) == 1 and 0 < len(last) < most and (len(last) == 1 or shared):
            common = _common([sequences[last[0]][: shared or None], sequences[group[0]]])
            if len(last) * common >= (len(last) - 1) * shared + _WORTH:
                last += group
                shared = common
                continue
        found.append(list(group))
        shared = 0
    return found


def _common(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all begin with."""
    together = zip(*sequences, strict=False)
    return next((n for n, tokens in enumerate(together) if len(set(tokens)) > 1), min(map(len, sequences)))


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
    """What sees what, [rows, 1, query, key]: earlier tokens of what is shared and of the own rest, and itself."""
    found = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(batch), 1, 1)
    for index, row in enumerate(batch):
        for start, end in row.spans:
            found[index, end:, start:end] = False
    return found[:, None]
