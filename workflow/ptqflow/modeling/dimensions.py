"""Dimensions of a float model from its `config.json`. Import-light (no torch), and knows no recipe."""

from collections.abc import Mapping
from typing import Any

from ptqflow.modeling.anatomy import architecture


def head_dim(config: Mapping[str, Any]) -> int:
    """Channels of a head; stated in newer configs, independently of the hidden size (some architectures have a default)."""
    stated = config.get("head_dim") or architecture(config["model_type"]).defaults.get("head_dim")
    return int(stated or config["hidden_size"] // config["num_attention_heads"])


def queries_per_key(config: Mapping[str, Any]) -> int:
    """How many query heads share a key and value head."""
    heads = config["num_attention_heads"]
    return int(heads // (architecture(config["model_type"]).setting(config, "num_key_value_heads") or heads))


def positions(config: Mapping[str, Any]) -> int | None:
    """How many positions a model has; None: it does not say.

    YaRN stretches the original ones, which many a config.json leaves in `max_position_embeddings`: as vLLM counts.
    """
    stated: int | None = config.get("max_position_embeddings")
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if stated is None or rotary.get("rope_type", rotary.get("type")) != "yarn":
        return stated
    return int((rotary.get("original_max_position_embeddings") or stated) * (rotary.get("factor") or 1))


def linear_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(out_features, in_features) of each linear of a block, by name."""
    hidden, intermediate, dim = config["hidden_size"], config["intermediate_size"], head_dim(config)
    heads, found = config["num_attention_heads"], architecture(config["model_type"])
    queries, keys = heads * dim, heads // queries_per_key(config) * dim
    parts = {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (intermediate, hidden),
        "up_proj": (intermediate, hidden),
        "down_proj": (hidden, intermediate),
    }
    of_parts = {linear: [parts[part] for part in found.parts(linear)] for linear in found.linears}
    return {linear: (sum(rows for rows, _ in shapes), shapes[0][1]) for linear, shapes in of_parts.items()}
