"""The arithmetic that a model asks for, whatever computes it: floating-point operations and bytes of a phase. Knows no engine."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig

from ptqflow.modeling.dimensions import head_dim, linear_shapes, queries_per_key


@dataclass(frozen=True)
class Work:
    """Of one phase: operations (2 per multiplication with its addition), and bytes that must be read once."""

    flops: float
    moved: float


def cache_bytes(config: Mapping[str, Any], itemsize: int) -> int:
    """Keys and values of one token in all blocks."""
    keys = config["num_attention_heads"] // queries_per_key(config) * head_dim(config)
    return int(2 * config["num_hidden_layers"] * keys * itemsize)


def read_bytes(config: Mapping[str, Any], weights: int, itemsize: int) -> int:
    """Of the bytes of all weights those that a step reads: not an embedding apart from the head, of which it looks up rows."""
    apart = not _stock(config).tie_word_embeddings
    return weights - apart * config["vocab_size"] * config["hidden_size"] * itemsize


def prefill(config: Mapping[str, Any], batch: int, prompt: int, weights: int) -> Work:
    """All tokens through all blocks, causal attention, one row of logits per sequence; `weights` bytes are read once."""
    blocks, head, attention = _terms(config)
    return Work(batch * (2 * blocks * prompt + 2 * head + attention * _seen(config, range(1, prompt + 1))), weights)


def decode(config: Mapping[str, Any], batch: int, prompt: int, new: int, weights: int, cached: int) -> Work:
    """`new` steps of one token per sequence; each reads `weights` bytes and the cache, `cached` bytes per token, once."""
    blocks, head, attention = _terms(config)
    contexts = _seen(config, range(prompt + 1, prompt + new + 1))
    return Work(batch * (2 * (blocks + head) * new + attention * contexts), new * weights + batch * cached * contexts)


def _terms(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Weights of all blocks' linears and of the head; operations of attention per query and key."""
    layers = config["num_hidden_layers"]
    blocks = layers * sum(rows * columns for rows, columns in linear_shapes(config).values())
    return blocks, config["vocab_size"] * config["hidden_size"], 4 * layers * config["num_attention_heads"] * head_dim(config)


def _seen(config: Mapping[str, Any], contexts: Sequence[int]) -> float:
    """Keys that queries with these contexts see, in all; the mean over blocks, of which some have a sliding window."""
    stock = _stock(config)
    window, layers = getattr(stock, "sliding_window", None), stock.num_hidden_layers
    kinds = getattr(stock, "layer_types", None) or ["sliding_attention" if window else "full_attention"] * layers
    limits = [window if kind == "sliding_attention" else None for kind in kinds]
    return sum(count * sum(min(c, limit or c) for c in contexts) for limit, count in Counter(limits).items()) / layers


def _stock(config: Mapping[str, Any]) -> Any:
    """The configuration as transformers completes it."""
    return AutoConfig.for_model(**config)
