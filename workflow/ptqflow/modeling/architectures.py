"""The architectures we know: where a decoder block's linears, norms and distinct inputs are. Import-light (no torch).

Qwen2, Qwen3 and Llama share one anatomy (pre-norm blocks, grouped-query attention, gated MLP), so an adapter is a name; what
differs inside (biases, query and key norms) is the stock transformers module's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ptqflow.errors import ConfigError


@dataclass(frozen=True)
class Site:
    """A distinct linear input of a block: the linears that read it, and what carries its channels as it is made.

    That is a norm, or the rows of a linear (`before`).
    """

    name: str
    linears: tuple[str, ...]
    norm: str | None = None
    before: str | None = None


SITES = (
    Site("qkv", ("q_proj", "k_proj", "v_proj"), "input_layernorm"),
    Site("o", ("o_proj",), before="v_proj"),
    Site("gate_up", ("gate_proj", "up_proj"), "post_attention_layernorm"),
    Site("down", ("down_proj",), before="up_proj"),
)
ATTENTION = "self_attn"  # module names inside a block
# The two residual halves of a block: a norm and the module behind it. Each holds two sites in turn, the norm's output and the
# input of the module's last linear, whose output is added to the states.
HALVES = (("input_layernorm", ATTENTION), ("post_attention_layernorm", "mlp"))
PARENTS = {"q_proj": ATTENTION, "k_proj": ATTENTION, "v_proj": ATTENTION, "o_proj": ATTENTION} | {
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
}
EMBEDDING = "model.embed_tokens.weight"
# Readers of a site are only its linears, so a per-channel scale can move between them and what makes the site.
SITE_OF = {linear: site.name for site in SITES for linear in site.linears}


def module_name(linear: str) -> str:
    """Name of a linear inside its block: `q_proj` -> `self_attn.q_proj`."""
    return f"{PARENTS[linear]}.{linear}"


def block_prefix(layer: int) -> str:
    """Prefix of a block's tensors in the checkpoint."""
    return f"model.layers.{layer}."


def linear_prefix(layer: int, linear: str) -> str:
    """Tensor prefix of a linear in the checkpoint, without `.weight`."""
    return block_prefix(layer) + module_name(linear)


def smoothing_key(layer: int, site: str) -> str:
    """Name of a site's diagonal transform in `qparams.safetensors`."""
    return f"{block_prefix(layer)}{site}.smoothing_scale"


@dataclass(frozen=True)
class Architecture:
    """A supported `model_type` and the prefix of its transformers classes."""

    model_type: str
    prefix: str

    def class_of(self, part: str) -> Any:
        """A stock class: `Config`, `DecoderLayer` or `RotaryEmbedding`. Imports only this architecture's modules."""
        kind = "configuration" if part == "Config" else "modeling"
        module = import_module(f"transformers.models.{self.model_type}.{kind}_{self.model_type}")
        return getattr(module, self.prefix + part)


_KNOWN = {
    a.model_type: a for a in (Architecture("qwen2", "Qwen2"), Architecture("qwen3", "Qwen3"), Architecture("llama", "Llama"))
}


_STATED = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a `config.json`. Raises ConfigError for an unknown or incomplete one, and for sliding windows."""
    model_type = config.get("model_type")
    if model_type not in _KNOWN:
        raise ConfigError(f"model_type {model_type!r} is not supported; use a model of type {', '.join(_KNOWN)}")
    if lacking := [key for key in _STATED if not isinstance(config.get(key), int)]:
        raise ConfigError(f"config.json states no {', '.join(lacking)}; add what the model has, as a whole number")
    if "sliding_attention" in (config.get("layer_types") or []) or config.get("use_sliding_window"):
        raise ConfigError("sliding-window attention is not supported; use a model with use_sliding_window false")
    if "quantization_config" in config:
        raise ConfigError("the model is quantized already (quantization_config in config.json); start from its float checkpoint")
    return _KNOWN[model_type]
