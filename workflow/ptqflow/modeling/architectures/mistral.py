"""Mistral: Llama's anatomy, with one window of attention for all blocks (`sliding_window`, null: none; 4096 where not stated)."""

from ptqflow.modeling.anatomy import Architecture

ARCHITECTURE = Architecture(
    "mistral",
    "Mistral",
    keys=frozenset({"head_dim", "sliding_window"}),
    defaults={"num_key_value_heads": 8},
)
