"""Whether devices can share the tensors of a model (tensor parallelism), by its `config.json`. Import-light (no torch)."""

from collections.abc import Mapping
from typing import Any

from ptqflow.errors import ConfigError
from ptqflow.linears import ROW_PARALLEL
from ptqflow.modeling.anatomy import architecture_of
from ptqflow.recipes import Recipe

_SHARED = {"num_attention_heads": "attention heads", "intermediate_size": "channels of the MLP"}


def check_ranks(ranks: int, config: Mapping[str, Any], model: str) -> None:
    """Raise ConfigError where each of `ranks` devices cannot have an equal share of a model's heads and channels."""
    for key, words in _SHARED.items():
        if config[key] % ranks:
            raise ConfigError(
                f"tensor_parallel {ranks} does not divide the {config[key]} {words} of model {model}; use a divisor"
            )


def check_shards(ranks: int, recipe: Recipe, config: Mapping[str, Any], name: str) -> None:
    """Raise ConfigError where `ranks` devices would each see half an input shard of a recipe's fake checkpoint.

    What quantizes or transforms the input of o_proj and down_proj looks at a whole shard; a device has its part of the input.
    """
    if not recipe.input_shards % ranks:
        return
    architecture = architecture_of(config)
    for linear in ROW_PARALLEL:
        quantized = any(recipe.input_activations(index, linear) for index in range(int(config["num_hidden_layers"])))
        if quantized or architecture.site_of(linear).name in recipe.transform.online_sites:
            raise ConfigError(
                f"tensor_parallel {ranks} would cut the input_shards {recipe.input_shards} of recipe '{name}' in form fake; "
                f"use a divisor of {recipe.input_shards}, quantize with input_shards {ranks}, which no real form of it has, or "
                "ask real forms alone (an entry whose `forms` leave fake out)"
            )
