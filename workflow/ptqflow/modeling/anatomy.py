"""What an architecture is: where a decoder block's linears, norms and distinct inputs are, and what acts on them, as a value.

One per `model_type`, in a file of its own (`modeling.architectures.<model_type>`), found by name and imported when asked for.
Import-light (no torch). What computes is always the stock transformers module; the value says what a walker, a transform or a
checkpoint format must know of it. Anything in a `config.json` that is neither understood nor without effect is refused by key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ptqflow.errors import ConfigError

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
ATTENTION, MLP = "self_attn", "mlp"  # module names inside a block
RECOMPUTED = ".rotary_emb.inv_freq"  # a buffer that older checkpoints hold in every block, and engines compute from the config
_FOLDER = Path(__file__).with_name("architectures")


@dataclass(frozen=True)
class Site:
    """A distinct linear input of a block: the linears that read it, and what carries its channels as it is made.

    That is a norm, or the last rows of a linear (`before`): all of them, or of fused linears those of the last part. Readers of
    a site are only its linears, so a per-channel scale can move between them and what makes the site.
    """

    name: str
    linears: tuple[str, ...]
    norm: str | None = None
    before: str | None = None


@dataclass(frozen=True)
class Half:
    """A residual half of a block: states += after(module(norm(states))). It holds two sites: what `norm` makes, and the input of
    the module's last linear.
    """

    norm: str
    module: str
    after: str | None = None


SITES = (
    Site("qkv", ("q_proj", "k_proj", "v_proj"), "input_layernorm"),
    Site("o", ("o_proj",), before="v_proj"),
    Site("gate_up", ("gate_proj", "up_proj"), "post_attention_layernorm"),
    Site("down", ("down_proj",), before="up_proj"),
)
HALVES = (Half("input_layernorm", ATTENTION), Half("post_attention_layernorm", MLP))


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Keys of config.json that every decoder of this family has; the stock modules compute by them.
KEYS = _keys("""
    model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act
    max_position_embeddings rms_norm_eps rope_theta rope_scaling rope_parameters tie_word_embeddings
""")
# Keys that change nothing of a float forward pass for inference, whatever their value.
WITHOUT_EFFECT = _keys("""
    architectures auto_map attention_dropout attn_implementation _attn_implementation _attn_implementation_autoset _name_or_path
    dtype torch_dtype initializer_range transformers_version use_cache cache_implementation chunk_size_feed_forward
    bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id pad_token max_sequence_length model_max_length
    return_dict output_attentions output_hidden_states torchscript problem_type id2label label2id finetuning_task
    task_specific_params tokenizer_class prefix keys_to_ignore_at_inference unsloth_fixed unsloth_version
""")
_STATED = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")


@dataclass(frozen=True)
class Architecture:
    """A supported `model_type`; `classes`: the prefix of its transformers classes. The defaults are Llama's anatomy.

    sites: in the order of the forward pass, two per half. fused: a linear made of several, by name, with its parts in the order
    of its rows; recipes speak of the parts. norm_offset: norms multiply by norm_offset + weight. key_norm: a norm follows the
    keys' linear (`k_norm`). scaled_embedding: states enter the first block times sqrt(hidden_size). keys: of config.json that are
    understood, beside `KEYS`: what the stock modules compute by. (Windows and soft caps of attention they hand to the attention
    function, `modeling.fake_quant`; a cap of logits acts outside the blocks.) biased: linears with a bias whatever the config.
    off: values at which other keys change nothing. defaults: what keys mean that config.json leaves out, where a shape follows
    from them. ascend: what vllm-ascend is known to serve of it in form modelslim, of `linears` and `cache` (scales of 8-bit keys
    and values).
    """

    model_type: str
    classes: str
    sites: tuple[Site, ...] = SITES
    halves: tuple[Half, ...] = HALVES
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norm_offset: float = 0.0
    key_norm: bool = False
    scaled_embedding: bool = False
    keys: frozenset[str] = frozenset()
    biased: tuple[str, ...] = ()
    off: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ascend: tuple[str, ...] = ()

    @property
    def linears(self) -> tuple[str, ...]:
        """Names of a block's linears, in the order of the forward pass."""
        return tuple(linear for site in self.sites for linear in site.linears)

    def site_of(self, linear: str) -> Site:
        """The site that a linear reads."""
        return next(site for site in self.sites if linear in site.linears)

    def parts(self, linear: str) -> tuple[str, ...]:
        """What recipes call a linear: itself, or the linears it is made of."""
        return self.fused.get(linear, (linear,))

    def role(self, linear: str) -> str:
        """The name under which a recipe is asked for a linear (`check_recipe`: it says the same for all parts)."""
        return self.parts(linear)[0]

    def module_name(self, linear: str) -> str:
        """Name of a linear inside its block: `q_proj` -> `self_attn.q_proj`."""
        half = self.halves[self.sites.index(self.site_of(linear)) // 2]
        return f"{half.module}.{linear}"

    def linear_prefix(self, layer: int, linear: str) -> str:
        """Tensor prefix of a linear in the checkpoint, without `.weight`."""
        return block_prefix(layer) + self.module_name(linear)

    def has_bias(self, linear: str, config: Mapping[str, Any]) -> bool:
        """Whether a linear has a bias."""
        key = "attention_bias" if self.module_name(linear).startswith(ATTENTION) else "mlp_bias"
        return linear in self.biased or bool(config.get(key))

    def setting(self, config: Mapping[str, Any], key: str) -> Any:
        """What a `config.json` means by `key`, stated or not."""
        return config[key] if key in config else self.defaults.get(key)

    def is_off(self, key: str, value: Any) -> bool:
        """Whether a key that is not understood is turned off: null, false, empty, or what `off` says."""
        return value is None or value is False or value in ({}, []) or (key in self.off and self.off[key] == value)

    def class_of(self, part: str) -> Any:
        """A stock class: `Config`, `DecoderLayer` or `RotaryEmbedding`. Imports only this architecture's modules."""
        kind = "configuration" if part == "Config" else "modeling"
        module = import_module(f"transformers.models.{self.model_type}.{kind}_{self.model_type}")
        return getattr(module, self.classes + part)


def block_prefix(layer: int) -> str:
    """Prefix of a block's tensors in the checkpoint."""
    return f"model.layers.{layer}."


def smoothing_key(layer: int, site: str) -> str:
    """Name of a site's diagonal transform in `qparams.safetensors`."""
    return f"{block_prefix(layer)}{site}.smoothing_scale"


def known() -> list[str]:
    """Every supported `model_type`."""
    return sorted(path.stem for path in _FOLDER.glob("[a-z]*.py"))


def module_of(model_type: str) -> str:
    """Name of the module of a supported `model_type`, relative to the package."""
    return f"modeling.architectures.{model_type}"


def architecture(model_type: Any) -> Architecture:
    """The architecture of a `model_type`. Raises ConfigError for an unknown one."""
    if model_type not in known():
        raise ConfigError(f"model_type {model_type!r} is not supported; use a model of type {', '.join(known())}")
    value: Architecture = import_module(f"ptqflow.{module_of(model_type)}").ARCHITECTURE
    return value


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a float model's `config.json`.

    Raises ConfigError for an unknown or incomplete one, and for a key that is not understood and not off (null, false, empty).
    """
    found = architecture(config.get("model_type"))
    if lacking := [key for key in _STATED if not isinstance(config.get(key), int)]:
        raise ConfigError(f"config.json states no {', '.join(lacking)}; add what the model has, as a whole number")
    if config.get("quantization_config") is not None:
        raise ConfigError(
            "the model is quantized already (quantization_config in config.json); start from its float checkpoint, or "
            "remove the key where its weights are float"
        )
    heads, keys = config["num_attention_heads"], found.setting(config, "num_key_value_heads") or config["num_attention_heads"]
    if not isinstance(keys, int) or keys < 1 or heads % keys:
        raise ConfigError(
            f"config.json: num_key_value_heads {keys} does not divide num_attention_heads {heads}; state what the model has"
        )
    others = {key: value for key, value in config.items() if key not in KEYS | WITHOUT_EFFECT | found.keys}
    if foreign := sorted(key for key, value in others.items() if not found.is_off(key, value)):
        raise ConfigError(
            f"config.json: {foreign[0]} is not understood for model_type {found.model_type}, and may change what the model "
            f"computes; remove it if transformers {found.classes}Config has no such key, or use another model"
        )
    return found


def of_block(block: Any) -> Architecture:
    """The architecture of a stock decoder block, by the configuration that its attention carries."""
    return architecture(block.get_submodule(ATTENTION).config.model_type)
