"""Qwen3: norms on queries and keys before RoPE, heads of a width of their own; windows as Qwen2."""

from ptqflow.modeling.anatomy import Architecture

ARCHITECTURE = Architecture(
    "qwen3",
    "Qwen3",
    key_norm=True,
    keys=frozenset({"head_dim", "attention_bias", "use_sliding_window", "sliding_window", "max_window_layers", "layer_types"}),
    defaults={"num_key_value_heads": 32, "head_dim": 128},
    ascend=("linears", "cache"),
)
