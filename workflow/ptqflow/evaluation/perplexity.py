"""Perplexity over non-overlapping windows of one token stream.

The rows are joined by blank lines, unfiltered, and tokenized once; the tail that fills no window is dropped. In a window of
L tokens, L-1 are predicted. Windows are equally long, so that exp(mean of window means) and exp(total nll / total tokens), the
two conventions in use, are the same number.
"""

from typing import Any

import torch

from ptqflow.engines.protocol import Engine
from ptqflow.errors import ConfigError
from ptqflow.evaluation.hashing import tokens_sha256
from ptqflow.evaluation.items import TextItem
from ptqflow.evaluation.tasks import TaskConfig
from ptqflow.progress import progress


def windows(tokens: list[int], length: int, limit: int | None = None) -> torch.Tensor:
    """[n, length] int64: the first `limit` non-overlapping windows of a token stream; n is 0 when it is too short."""
    count = min(len(tokens) // length, limit or len(tokens))
    return torch.tensor(tokens[: count * length], dtype=torch.long).view(count, length)


def evaluate(
    name: str, task: TaskConfig, items: list[TextItem], engine: Engine, seed: int, batch_size: int
) -> list[dict[str, Any]]:
    """One row per window: `nll` in nats summed over its `completion_tokens` = L-1 targets. Raises ConfigError if none fits."""
    assert task.window is not None
    if engine.max_length is not None and task.window > engine.max_length:
        raise ConfigError(
            f"task {name}: window {task.window} exceeds the model's {engine.max_length} positions; set a smaller window"
        )
    # The stream begins with whatever the tokenizer puts before a text (BOS, for some).
    stream = engine.tokenizer("\n\n".join(item.text for item in items), verbose=False).input_ids
    batch = windows(stream, task.window, task.limit)
    if len(batch) == 0:
        raise ConfigError(
            f"task {name}: its text has {len(stream)} tokens, fewer than one window of {task.window}; set a smaller window"
        )
    with progress(name, len(batch), "windows") as bar:
        nll = [value for part in engine.score(batch, batch_size, bar.update) for value in part.sum(-1).tolist()]
    return [
        {
            "task": name,
            "kind": "perplexity",
            "item": f"{index:06d}",
            "seed": seed,
            "completion": 0,
            "prompt_sha256": tokens_sha256(window),
            "prompt_tokens": task.window,
            "completion_tokens": task.window - 1,
            "nll": value,
        }
        for index, (window, value) in enumerate(zip(batch.tolist(), nll, strict=True))
    ]
