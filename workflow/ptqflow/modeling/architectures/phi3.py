"""Phi-3, Phi-3.5 and Phi-4-mini: q, k, v are one linear and so are gate and up; no biases; a part of each head may be rotated.

Dropouts are for training. `rope_scaling: longrope` chooses its factors by the length of the sequence, in the stock module.
"""

from ptqflow.modeling.anatomy import Architecture, Site

ARCHITECTURE = Architecture(
    "phi3",
    "Phi3",
    sites=(
        Site("qkv", ("qkv_proj",), "input_layernorm"),
        Site("o", ("o_proj",), before="qkv_proj"),
        Site("gate_up", ("gate_up_proj",), "post_attention_layernorm"),
        Site("down", ("down_proj",), before="gate_up_proj"),
    ),
    fused={"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")},
    off={"full_attn_mod": 1, "interpolate_factor": 1},  # of Phi-4-mini's own code
    keys=frozenset(
        {"head_dim", "original_max_position_embeddings", "partial_rotary_factor", "sliding_window", "resid_pdrop", "embd_pdrop"}
    ),
)
