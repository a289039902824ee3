"""The arithmetic that a model asks for, whatever computes it: floating-point operations and bytes of a phase. Knows no engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


def prefill(config: Mapping[str, Any], batch: int, prompt: int, weights: int) -> Work:
    """All tokens through all blocks, causal attention, one row of logits per sequence; weights read once."""
    blocks, head, attention = _terms(config)
    flops = batch * (2 * blocks * prompt + 2 * head + attention * prompt * (prompt + 1) / 2)
    return Work(flops, weights)


def decode(config: Mapping[str, Any], batch: int, prompt: int, new: int, weights: int, cached: int) -> Work:
    """`new` steps of one token per sequence; each reads the weights and the cache, `cached` bytes per token, once."""
    blocks, head, attention = _terms(config)
    contexts = sum(range(prompt + 1, prompt + new + 1))
    return Work(batch * (2 * (blocks + head) * new + attention * contexts), new * weights + batch * cached * contexts)


def _terms(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Weights of all blocks' linears and of the head; operations of attention per query and key."""
    layers = config["num_hidden_layers"]
    blocks = layers * sum(rows * columns for rows, columns in linear_shapes(config).values())
    return blocks, config["vocab_size"] * config["hidden_size"], 4 * layers * config["num_attention_heads"] * head_dim(config)
