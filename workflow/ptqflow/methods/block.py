"""Quantize the weights of one decoder block: transform, then clip and round each linear, and measure what was lost.

All that a method sees of the data are a Gram matrix XᵀX per distinct input and the float model's channel maxima. Every layer
error comes from the same matrix: |X(W - W')ᵀ|² = tr(ΔW XᵀX ΔWᵀ).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ptqflow.methods.rounding import RoundedWeight, clip_rows
from ptqflow.modeling.architectures import SITES, Site, block_prefix, linear_prefix, smoothing_key
from ptqflow.modeling.shapes import shards_of
from ptqflow.numerics.grid import dequantize_weight, integer_range
from ptqflow.recipes import Recipe, WeightArgs
from ptqflow.transforms import diagonal


@dataclass(frozen=True)
class BlockInputs:
    """What the calibration set says about a block.

    grams: XᵀX [in, in] float32 by site; tokens: rows of X; absmax: max|x| [in] of the float model by site.
    weight_clips: learned ratios [out, 2] of each row's range, by linear, which are applied before rounding.
    """

    grams: Mapping[str, Tensor]
    tokens: int
    absmax: Mapping[str, Tensor]
    weight_clips: Mapping[str, Tensor] = field(default_factory=dict)


def quantize_weights(
    layer: int, tensors: Mapping[str, Tensor], inputs: BlockInputs, recipe: Recipe, peak_bytes: Callable[[], int]
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Integers, scales and transforms of block `layer` by name (as in `modeling.qparams`, on the CPU), and rows of diagnostics.

    `tensors`: the block's tensors by checkpoint name. Computes where the Gram matrices are.
    """
    qparams: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    for site in SITES:
        smoothing = _smoothing(layer, site, tensors, inputs, recipe)
        if smoothing is not None:
            qparams[smoothing_key(layer, site.name)] = smoothing.cpu()
        gram = inputs.grams.get(site.name)
        if gram is not None and smoothing is not None:
            gram = diagonal.apply_to_gram(gram, smoothing.to(gram.device))
        for linear in site.linears:
            args = recipe.weights(layer, linear)
            if args is None:
                continue
            if gram is None:
                raise ValueError(f"no Gram matrix for the inputs of {linear}")
            start = time.perf_counter()
            weight = tensors[f"{linear_prefix(layer, linear)}.weight"].to(gram.device, torch.float32)
            if smoothing is not None:
                weight = diagonal.apply_to_weight(weight, smoothing.to(gram.device))
            method = import_module(f"ptqflow.methods.{recipe.rounding.name}")
            ratios = inputs.weight_clips.get(linear)
            clipped = weight if ratios is None else clip_rows(weight, ratios.to(weight))
            rounded: RoundedWeight = method.round_weight(
                clipped, gram, args, recipe.clip, recipe.rounding, shards_of(recipe, linear)
            )
            parts = {"integers": rounded.integers, "scale": rounded.scale, "zero_point": rounded.zero_point}
            qparams |= {f"{linear_prefix(layer, linear)}.{part}": t.cpu().contiguous() for part, t in parts.items()}
            errors = _errors(weight, rounded, gram, inputs.tokens, args)
            seconds = time.perf_counter() - start
            rows.append({"layer": layer, "module": linear, **errors, "seconds": seconds, "peak_bytes": peak_bytes()})
    return qparams, rows


def _smoothing(layer: int, site: Site, tensors: Mapping[str, Tensor], inputs: BlockInputs, recipe: Recipe) -> Tensor | None:
    """The diagonal scaling of one site, as the norm before it can hold it; None where the transform leaves the site alone."""
    if recipe.transform.name == "none":
        return None
    method = import_module(f"ptqflow.methods.{recipe.transform.name}")
    if site.name not in method.SITES:
        return None
    weights = [tensors[f"{linear_prefix(layer, linear)}.weight"] for linear in site.linears]
    scale = method.smoothing_scale(inputs.absmax[site.name], weights, recipe.transform)
    return diagonal.representable(scale, tensors[f"{block_prefix(layer)}{site.norm}.weight"])


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
        "clip_fraction": at_end.float().mean().item(),
        "damping": rounded.damping,
        "fallback": rounded.fallback,
    }


def _energy(weight: Tensor, gram: Tensor) -> float:
    """|X Wᵀ|² = tr(W XᵀX Wᵀ)."""
    return max(0.0, ((weight @ gram) * weight).sum(1).cpu().double().sum().item())


def _ratio(part: float, whole: float) -> float:
    """part / whole; 0 / 0 is 0 (nothing there, nothing lost)."""
    return part / whole if whole else (0.0 if part == 0 else float("inf"))
