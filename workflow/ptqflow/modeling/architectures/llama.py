"""Llama 1 to 3.x: no biases unless the config says so."""

from ptqflow.modeling.anatomy import Architecture

ARCHITECTURE = Architecture(
    "llama",
    "Llama",
    keys=frozenset({"head_dim", "attention_bias", "mlp_bias", "pretraining_tp"}),
    ascend=("linears",),
)
