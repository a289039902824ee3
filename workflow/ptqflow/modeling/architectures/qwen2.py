"""Qwen2 and Qwen2.5: biases on q_proj, k_proj and v_proj; windows of attention in the last blocks, where the config says so."""

from ptqflow.modeling.anatomy import Architecture

ARCHITECTURE = Architecture(
    "qwen2",
    "Qwen2",
    keys=frozenset({"head_dim", "use_sliding_window", "sliding_window", "max_window_layers", "layer_types"}),
    biased=("q_proj", "k_proj", "v_proj"),
    ascend=("linears",),
    defaults={"num_key_value_heads": 32},
)
