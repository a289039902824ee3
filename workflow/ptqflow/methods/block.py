"""Quantize the weights of one decoder block: transform, then clip and round each linear, and measure what was lost.

All that a method sees of the data are a Gram matrix XᵀX per distinct input and the float model's mean|x| and max|x| by channel.
Every layer error comes from the same matrix: |X(W - W')ᵀ|² = tr(ΔW XᵀX ΔWᵀ).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ptqflow.methods.rounding import RoundedWeight, Target, clip_rows
from ptqflow.methods.scaling import SiteInputs
from ptqflow.modeling.architectures import SITES, Site, block_prefix, linear_prefix, smoothing_key
from ptqflow.modeling.qparams import transformed
from ptqflow.modeling.shapes import shards_of
from ptqflow.numerics.gram import energies
from ptqflow.numerics.grid import dequantize_weight, integer_range
from ptqflow.recipes import Recipe, WeightArgs
from ptqflow.transforms import diagonal


@dataclass(frozen=True)
class BlockInputs:
    """What the calibration set says about a block.

    grams: XᵀX [in, in] float32 by site; tokens: rows of X; mean_abs and absmax: mean|x| and max|x| [in] of the float model by
    site; head_dim: channels of an attention head; weight_clips: learned ratios [out, 2] of each row's range, by linear, which
    are applied before rounding.
    """

    grams: Mapping[str, Tensor]
    tokens: int
    mean_abs: Mapping[str, Tensor]
    absmax: Mapping[str, Tensor]
    head_dim: int
    weight_clips: Mapping[str, Tensor] = field(default_factory=dict)


def quantize_weights(
    layer: int, tensors: Mapping[str, Tensor], inputs: BlockInputs, recipe: Recipe, peak_bytes: Callable[[], int]
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Integers, scales and transforms of block `layer` by name (as in `modeling.qparams`, on the CPU), and rows of diagnostics.

    `tensors`: the block's tensors by checkpoint name. Computes where the Gram matrices are.
    """
    scales, seconds_of, notes = _scales(layer, tensors, inputs, recipe)
    qparams = {key: scale.cpu() for key, scale in scales.items()}
    rows: list[dict[str, Any]] = []
    for site in SITES:
        gram = inputs.grams.get(site.name)
        if gram is not None and (scale := scales.get(smoothing_key(layer, site.name))) is not None:
            gram = diagonal.apply_to_gram(gram, scale)
        quantized = [linear for linear in site.linears if recipe.weights(layer, linear) is not None]
        if not quantized:
            continue
        if gram is None:
            raise ValueError(f"no Gram matrix for the inputs of {quantized[0]}")
        start = time.perf_counter()
        targets = []
        weights = []
        for linear in quantized:
            name = f"{linear_prefix(layer, linear)}.weight"
            weight = transformed(name, tensors[name].to(gram.device, torch.float32), scales)
            args = recipe.weights(layer, linear)
            assert args is not None
            weights.append(weight)
            if (ratios := inputs.weight_clips.get(linear)) is not None:
                weight = clip_rows(weight, ratios.to(weight))
            targets.append(Target(weight, args, recipe.clip_of(linear)))
        method = import_module(f"ptqflow.methods.{recipe.rounding.name}")
        results: list[RoundedWeight] = method.round_weights(targets, gram, recipe.rounding, shards_of(recipe, quantized[0]))
        shared = time.perf_counter() - start + seconds_of.get(site.name, 0.0)
        elements = sum(target.weight.numel() for target in targets)
        for linear, weight, target, rounded in zip(quantized, weights, targets, results, strict=True):
            start = time.perf_counter()
            parts = {"integers": rounded.integers, "scale": rounded.scale, "zero_point": rounded.zero_point}
            qparams |= {f"{linear_prefix(layer, linear)}.{part}": t.cpu().contiguous() for part, t in parts.items()}
            errors = _errors(weight, rounded, gram, inputs.tokens, target.args)
            errors["fallback"] = "; ".join(filter(None, [notes.get(site.name), rounded.fallback])) or None
            # What linears of a site share is split by their sizes.
            seconds = time.perf_counter() - start + shared * weight.numel() / elements
            rows.append({"layer": layer, "module": linear, **errors, "seconds": seconds, "peak_bytes": peak_bytes()})
    return qparams, rows


def _scales(
    layer: int, tensors: Mapping[str, Tensor], inputs: BlockInputs, recipe: Recipe
) -> tuple[dict[str, Tensor], dict[str, float], dict[str, str]]:
    """The diagonal scaling of each site by `smoothing_key`; by site, its seconds, and why it was left alone where that is news.

    Every site is looked at with the others unscaled.
    """
    scales: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    notes: dict[str, str] = {}
    if recipe.transform.name == "none":
        return scales, seconds, notes
    method = import_module(f"ptqflow.methods.{recipe.transform.name}")
    for site in SITES:
        start = time.perf_counter()
        query_heads = _query_heads(layer, site, tensors)
        if (reason := method.skipped(site.name, query_heads, recipe.transform)) is not None:
            notes |= {site.name: reason} if reason else {}
            continue
        scale = method.smoothing_scale(_site_inputs(layer, site, tensors, inputs, recipe, query_heads), recipe.transform)
        if scale is None:
            continue
        if site.norm:
            norm = tensors[f"{block_prefix(layer)}{site.norm}.weight"]
            scale = diagonal.representable(scale, norm.to(scale.device))
        elif query_heads > 1:
            scale = diagonal.by_value_head(scale, query_heads, inputs.head_dim, "max")
        scales[smoothing_key(layer, site.name)] = scale
        seconds[site.name] = time.perf_counter() - start
    return scales, seconds, notes


def _query_heads(layer: int, site: Site, tensors: Mapping[str, Tensor]) -> int:
    """How many heads of the site's input share a head of the linear that makes it: above 1 only for o_proj's."""
    if not site.before:
        return 1
    read = tensors[f"{linear_prefix(layer, site.linears[0])}.weight"].shape[1]
    return read // tensors[f"{linear_prefix(layer, site.before)}.weight"].shape[0]


def _site_inputs(
    layer: int, site: Site, tensors: Mapping[str, Tensor], inputs: BlockInputs, recipe: Recipe, query_heads: int
) -> SiteInputs:
    """What is known about a site, on the device of its Gram matrix."""
    gram = inputs.grams.get(site.name)
    device = gram.device if gram is not None else inputs.absmax[site.name].device

    def share(statistic: Tensor, how: str) -> Tensor:
        if query_heads == 1:
            return statistic
        return diagonal.by_value_head(statistic, query_heads, inputs.head_dim, how).flatten()

    return SiteInputs(
        mean_abs=inputs.mean_abs[site.name].to(device, torch.float32),
        absmax=inputs.absmax[site.name].to(device, torch.float32),
        weights=[tensors[f"{linear_prefix(layer, linear)}.weight"].to(device, torch.float32) for linear in site.linears],
        args=[recipe.weights(layer, linear) for linear in site.linears],
        gram=gram,
        share=share,
        input_shards=shards_of(recipe, site.linears[0]),
    )


def _errors(weight: Tensor, rounded: RoundedWeight, gram: Tensor, tokens: int, args: WeightArgs) -> dict[str, Any]:
    """Weight error, output error and mean squared output error of one linear, and how it was rounded."""
    difference = weight - dequantize_weight(rounded.integers, rounded.scale, rounded.zero_point)
    lost, total = _energy(difference, gram), _energy(weight, gram)
    lowest, highest = integer_range(args.num_bits, args.symmetric)
    at_end = (rounded.integers == lowest) | (rounded.integers == highest)
    return {
        "weight_error": _ratio(difference.square().sum().item(), weight.square().sum().item()),
        "output_error": _ratio(lost, total),
        "output_mse": lost / (tokens * weight.shape[0]),
        "tokens": tokens,
        "clip_fraction": at_end.float().mean().item(),
        "damping": rounded.damping,
        "condition_number": rounded.condition_number,
    }


def sampled_error(weight: Tensor, x: Tensor, output: Tensor) -> float:
    """|X Wᵀ - Y|² / |X Wᵀ|² of what a quantized linear made of X [tokens, in]: Y [tokens, out]; `weight` [out, in] is unrounded.

    Unlike the error from the Gram matrix it knows how inputs are quantized.
    """
    expected = x @ weight.to(x).T
    return _ratio((expected - output).square().sum().item(), expected.square().sum().item())


def _energy(weight: Tensor, gram: Tensor) -> float:
    """|X Wᵀ|² = tr(W XᵀX Wᵀ)."""
    return max(0.0, energies(weight, gram).cpu().double().sum().item())


def _ratio(part: float, whole: float) -> float:
    """part / whole; 0 / 0 is 0 (nothing there, nothing lost)."""
    return part / whole if whole else (0.0 if part == 0 else float("inf"))
