"""Outlier channels for a model that has none, without changing what it computes.

A tiny model trained from scratch has no outliers, and so hardly notices quantization; large language models have a few
channels, the same ones in every block, that are tens of times larger than the rest. `plant` makes such channels: it
multiplies a channel where it is produced and divides it where it is consumed,

    norm          RMSNorm weight[c] · f      →  q/k/v (or gate/up) weight[:, c] / f
    up_to_down    up weight[c, :] · f        →  down weight[:, c] / f
    value_to_output   v weight[c, :], bias[c] · f  →  o weight[:, every query head that reads c] / f

Factors are powers of two: scaling by them is exact in bfloat16 and float32, so the logits stay the same bit for bit.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from transformers import Qwen2ForCausalLM

Site = Literal["attention_norm", "mlp_norm", "up_to_down", "value_to_output"]

# A heavy tail, as in real models: one factor per planted channel.
NORM_FACTORS = (64, 64, 64, 64, 32, 32, 16, 16)
UP_FACTORS = (4, 4)
VALUE_FACTORS = (2, 2)


@dataclass(frozen=True)
class Planting:
    """Channel `channels[i]` of `site` in block `layer` was scaled by `factors[i]`."""

    layer: int
    site: Site
    channels: tuple[int, ...]
    factors: tuple[int, ...]


def plant(model: Qwen2ForCausalLM, seed: int) -> list[dict[str, object]]:
    """Plant outliers in every block, in place; returns what was done, fit for JSON."""
    rng = random.Random(seed)
    config = model.config
    # The residual stream's channels: the same in all blocks and both norms.
    hidden = tuple(rng.sample(range(config.hidden_size), len(NORM_FACTORS)))
    plantings: list[Planting] = []
    for layer in range(config.num_hidden_layers):
        up = tuple(rng.sample(range(config.intermediate_size), len(UP_FACTORS)))
        value_channels = model.model.layers[layer].self_attn.v_proj.out_features
        value = tuple(rng.sample(range(value_channels), len(VALUE_FACTORS)))
        plantings += [
            Planting(layer, "attention_norm", hidden, NORM_FACTORS),
            Planting(layer, "mlp_norm", hidden, NORM_FACTORS),
            Planting(layer, "up_to_down", up, UP_FACTORS),
            Planting(layer, "value_to_output", value, VALUE_FACTORS),
        ]
    for planting in plantings:
        scale(model, planting)
    return [asdict(planting) for planting in plantings]


def unplant(model: Qwen2ForCausalLM, planted: list[dict[str, object]]) -> None:
    """Take back, in place, what `plant` returned."""
    for row in planted:
        scale(model, Planting(**row), inverse=True)  # type: ignore[arg-type]


@torch.no_grad()
def scale(model: Qwen2ForCausalLM, planting: Planting, inverse: bool = False) -> None:
    """Multiply the producer's channels by the factors and divide the consumers' columns."""
    block = model.model.layers[planting.layer]
    attention, mlp = block.self_attn, block.mlp
    channels = torch.tensor(planting.channels, dtype=torch.int64)
    factors = torch.tensor(planting.factors, dtype=attention.q_proj.weight.dtype)
    if inverse:
        factors = 1 / factors
    if planting.site == "attention_norm":
        block.input_layernorm.weight[channels] *= factors
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            linear.weight[:, channels] /= factors
    elif planting.site == "mlp_norm":
        block.post_attention_layernorm.weight[channels] *= factors
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight[:, channels] /= factors
    elif planting.site == "up_to_down":
        mlp.up_proj.weight[channels] *= factors[:, None]
        mlp.down_proj.weight[:, channels] /= factors
    elif planting.site == "value_to_output":
        attention.v_proj.weight[channels] *= factors[:, None]
        if attention.v_proj.bias is not None:
            attention.v_proj.bias[channels] *= factors
        for columns in _output_columns(channels, attention.head_dim, attention.num_key_value_groups):
            attention.o_proj.weight[:, columns] /= factors
    else:
        raise ValueError(f"planting site {planting.site!r} is none of {Site.__args__}")


def _output_columns(channels: torch.Tensor, head_dim: int, repeats: int) -> list[torch.Tensor]:
    """Per repeat of a key-value head (GQA), the columns of o_proj [len(channels)] that read these channels of v_proj."""
    head, within = channels // head_dim, channels % head_dim
    return [(head * repeats + repeat) * head_dim + within for repeat in range(repeats)]
