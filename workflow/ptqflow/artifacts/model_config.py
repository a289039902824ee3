"""A model's `config.json` with every value of the type that its readers take for granted, or refused by key. Import-light."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptqflow.errors import ArtifactError, ConfigError

MOST_LAYERS = 4096  # decoder blocks; beyond it, planning would take minutes over what no model has
_MOST = 1 << 31
_AT_LEAST_ONE = {"num_hidden_layers": MOST_LAYERS} | dict.fromkeys(
    (
        *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"),
        *("max_position_embeddings", "sliding_window"),
    ),
    _MOST,
)
_NUMBERS = (
    *("rms_norm_eps", "rope_theta", "initializer_range", "attention_dropout", "partial_rotary_factor"),
    *("factor", "original_max_position_embeddings"),
)
_FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_cache", "use_sliding_window")
_TEXTS = ("model_type", "hidden_act", "torch_dtype", "dtype")
_LISTS = ("architectures", "layer_types")
_MAPPINGS = ("rope_scaling", "rope_parameters")
# Where null has no meaning, or another one for each reader; elsewhere it is left to the readers' defaults.
_NEVER_NULL = (
    *("tie_word_embeddings", "rms_norm_eps", "hidden_act", "vocab_size", "hidden_size", "intermediate_size"),
    *("num_hidden_layers", "num_attention_heads"),
)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder. Raises ArtifactError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not JSON ({error}); copy or fetch it again") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is not a JSON object; copy or fetch it again")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder. Raises ArtifactError or ConfigError naming the file, the key and the value."""
    path = folder / "config.json"
    config = read_object(path)
    for key, value, wanted in _ill_typed(config):
        raise ConfigError(f"{path}: {key} is {json.dumps(value)[:60]}, where {wanted} belongs; correct it")
    return config


def _ill_typed(config: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """(key, value, what belongs there) of each value that has another type."""
    for key, value in config.items():
        if value is None and key not in _NEVER_NULL:
            continue
        if key in _AT_LEAST_ONE and not (type(value) is int and 1 <= value <= _AT_LEAST_ONE[key]):
            yield key, value, f"a whole number of 1 to {_AT_LEAST_ONE[key]}"
        elif key in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf")):
            yield key, value, "a number"
        elif key in _FLAGS and not isinstance(value, bool):
            yield key, value, "true or false"
        elif key in _TEXTS and not isinstance(value, str):
            yield key, value, "text"
        elif key in _LISTS and not (isinstance(value, list) and all(isinstance(entry, str) for entry in value)):
            yield key, value, "a list of names"
        elif key in _MAPPINGS and not isinstance(value, dict):
            yield key, value, "an object of keys and values"
        elif key in _MAPPINGS:
            yield from ((f"{key}.{inner}", *found) for inner, *found in _ill_typed(value))
