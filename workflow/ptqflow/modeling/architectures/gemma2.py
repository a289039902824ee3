"""Gemma 2: norms multiply by 1 + w and stand before and after each module; embeddings times sqrt(hidden_size); soft caps of
attention scores (50) and of logits (30); every other block attends within a window.

The last cap acts on logits, after the final norm: outside the blocks, where nothing is quantized.
"""

from ptqflow.modeling.anatomy import ATTENTION, MLP, SITES, Architecture, Half, Site

ARCHITECTURE = Architecture(
    "gemma2",
    "Gemma2",
    sites=(*SITES[:2], Site("gate_up", SITES[2].linears, "pre_feedforward_layernorm"), SITES[3]),
    halves=(
        Half("input_layernorm", ATTENTION, "post_attention_layernorm"),
        Half("pre_feedforward_layernorm", MLP, "post_feedforward_layernorm"),
    ),
    norm_offset=1.0,
    scaled_embedding=True,
    keys=frozenset(
        {
            *("head_dim", "attention_bias", "hidden_activation", "query_pre_attn_scalar"),
            *("attn_logit_softcapping", "final_logit_softcapping", "sliding_window", "sliding_window_size", "layer_types"),
        }
    ),
    defaults={"num_key_value_heads": 4, "head_dim": 256},
)
