"""Quantize the weights of one decoder block: transform, then clip and round each linear, and measure what was lost.

All that a method sees of the data are a Gram matrix XᵀX per distinct input, and mean|x| and max|x| by channel. Every layer error
comes from the same matrix, |X(W - W')ᵀ|² = tr(ΔW XᵀX ΔWᵀ), or, where no method wants one, from a sample of X.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ptqflow.by_name import method
from ptqflow.devices.device import Device
from ptqflow.methods.rounding import HeldOut, RoundedWeight, Target, clip_rows
from ptqflow.methods.scaling import SiteInputs
from ptqflow.modeling.anatomy import Architecture, Site, block_prefix, smoothing_key
from ptqflow.modeling.qparams import transformed
from ptqflow.modeling.shapes import shards_of
from ptqflow.numerics.gram import LowerHalf, Rows
from ptqflow.numerics.grid import dequantize_weight, integer_range
from ptqflow.numerics.products import multiply
from ptqflow.recipes import Recipe
from ptqflow.scheme import WeightArgs
from ptqflow.transforms import diagonal

_ROWS = 512  # at once


@dataclass(frozen=True)
class BlockInputs:
    """What the calibration set says about a block, as far as the recipe asks.

    By site: grams, XᵀX [in, in] float32; mean_abs, mean|x| [in] of the same; absmax, max|x| [in] of the float model; samples, X
    [tokens, in] float32 itself, instead of grams; held_out, of the sequences by which a clip is chosen. tokens: rows of X;
    head_dim: channels of an attention head; queries_per_key: query heads that share a value head. weight_clips: learned ratios
    [out, 2] of each row's range, by linear, which are applied before rounding. measured: whether errors of outputs are wanted.
    """

    grams: Mapping[str, Tensor]
    tokens: int
    mean_abs: Mapping[str, Tensor]
    absmax: Mapping[str, Tensor]
    head_dim: int
    queries_per_key: int
    samples: Mapping[str, Tensor] = field(default_factory=dict)
    held_out: Mapping[str, HeldOut] = field(default_factory=dict)
    weight_clips: Mapping[str, Tensor] = field(default_factory=dict)
    measured: bool = True


class BlockRounder:
    """Rounds the linears of one block, site by site; what it found gathers in `qparams` and `rows`.

    scales: the block's diagonal scalings by `smoothing_key`. qparams: scalings, integers, scales and zero points by name (as in
    `modeling.qparams`, on the CPU). rows: of diagnostics.
    """

    def __init__(
        self,
        architecture: Architecture,
        layer: int,
        tensors: Mapping[str, Tensor],
        inputs: BlockInputs,
        recipe: Recipe,
        device: Device,
    ) -> None:
        """Find the scalings. `tensors`: the block's tensors by checkpoint name."""
        self._architecture = architecture
        self._layer, self._tensors, self._inputs, self._recipe, self._device = layer, tensors, inputs, recipe, device
        self.scales: dict[str, Tensor] = {}
        self._seconds: dict[str, float] = {}  # that a site's scaling took
        self._notes: dict[str, str] = {}  # why a site was left alone
        if recipe.transform.works == "by_site":
            self._find_scales()
        self.qparams = {key: scale.cpu() for key, scale in self.scales.items()}
        self.rows: list[dict[str, Any]] = []

    def _find_scales(self) -> None:
        """The diagonal scaling of each site; what it took, and why it was left alone where that is news.

        Every site is looked at with the others unscaled. Where nothing is quantized that would see it there is none: weights left
        in high precision would only be rounded once more.
        """
        recipe, role = self._recipe, self._architecture.role
        scaling = method("transform", recipe.transform.name)
        for site in self._architecture.sites:
            start = time.perf_counter()
            query_heads = self._inputs.queries_per_key if site.name == "o" else 1
            seen = any(recipe.quantizes(self._layer, role(linear)) for linear in site.linears)
            if not (seen or (site.name == "o" and recipe.scheme.kv_cache)):  # values carry the scale of o
                continue
            if (reason := scaling.skipped(site.name, query_heads, recipe.transform)) is not None:
                self._notes |= {site.name: reason} if reason else {}
                continue
            known = self._site_inputs(site, query_heads)
            scale = scaling.smoothing_scale(known, recipe.transform)
            if scale is None:
                continue
            if query_heads > 1:
                scale = diagonal.by_value_head(scale, query_heads, self._inputs.head_dim, "max")
            self.scales[smoothing_key(self._layer, site.name)] = known.held(scale)
            self._seconds[site.name] = time.perf_counter() - start

    def _site_inputs(self, site: Site, query_heads: int) -> SiteInputs:
        """What is known about a site, on the device."""
        inputs, found, device = self._inputs, self._architecture, self._device.torch_device

        def known(statistics: Mapping[str, Tensor]) -> Tensor | None:
            return statistics[site.name].to(device, torch.float32) if site.name in statistics else None

        def share(statistic: Tensor, how: str) -> Tensor:
            if query_heads == 1:
                return statistic
            return diagonal.by_value_head(statistic, query_heads, inputs.head_dim, how).flatten()

        def held(scale: Tensor) -> Tensor:
            if not site.norm:
                return scale
            norm = self._tensors[f"{block_prefix(self._layer)}{site.norm}.weight"]
            return diagonal.representable(scale, norm.to(device), found.norm_offset)

        return SiteInputs(
            mean_abs=known(inputs.mean_abs),
            absmax=known(inputs.absmax),
            weights=[self._tensors[f"{self._prefix(linear)}.weight"].to(device).float() for linear in site.linears],
            args=[self._recipe.weights(self._layer, found.role(linear)) for linear in site.linears],
            gram=inputs.grams.get(site.name),
            share=share,
            input_shards=shards_of(self._recipe, site.linears[0]),
            held=held,
        )

    def quantized(self, site: Site) -> list[str]:
        """The linears of a site that the recipe quantizes."""
        role = self._architecture.role
        return [linear for linear in site.linears if self._recipe.weights(self._layer, role(linear)) is not None]

    def round(
        self,
        site: Site,
        gram: Tensor | None,
        sample: Tensor | None = None,
        cross: Tensor | None = None,
        held_out: HeldOut | None = None,
    ) -> list[str]:
        """Round the linears of a site, given XᵀX [in, in] (float32) of their scaled inputs X, or else X [tokens, in].

        `cross`, beside the former: Xᵀ(F - X) [in, in] with the inputs F that the float model makes, for weights that make up for
        the difference; `held_out`, for clips that choose: the rows by which they do. Returns their names in the
        checkpoint. Raises ValueError with neither XᵀX nor X.
        """
        start = time.perf_counter()
        recipe, quantized = self._recipe, self.quantized(site)
        weights = [self.weight(linear) for linear in quantized]
        aims, note = self._aims(site, weights, gram, cross)
        targets = [self._target(linear, aim) for linear, aim in zip(quantized, aims, strict=True)]
        round_weights = method("rounding", recipe.rounding.name).round_weights
        by_recipe = partial(round_weights, rounding=recipe.rounding, input_shards=shards_of(recipe, quantized[0]))
        choices: list[Mapping[str, float]] = [{}] * len(targets)
        if gram is not None and held_out is not None:
            targets, choices = method("clip", recipe.clip.name).choose(targets, gram, held_out, by_recipe)
        results: list[RoundedWeight] = by_recipe(targets, gram)
        shared = time.perf_counter() - start + self._seconds.get(site.name, 0.0)
        elements = sum(weight.numel() for weight in weights)
        dtype = self._device.parameter_dtype(self._tensors.values())
        seen = _seen(site, gram, sample, dtype) if self._inputs.measured else None
        for linear, weight, aim, target, rounded, choice in zip(quantized, weights, aims, targets, results, choices, strict=True):
            start = time.perf_counter()
            self._keep(linear, rounded, aim - weight if aim is not weight else None)
            if weight is not target.weight:  # what a method says it lost is of the weight that it was given
                rounded = replace(rounded, lost=None)
            row = _errors(weight, rounded, seen, self._inputs.tokens, target.args)
            row["fallback"] = "; ".join(filter(None, [self._notes.get(site.name), note, rounded.fallback])) or None
            row["warning"] = _of_unseen(rounded.unseen) if rounded.unseen is not None else None
            if choice:
                row |= {"clip": target.clip.name if target.clip else "none", "clip_errors": json.dumps(choice)}
            # What linears of a site share is split by their sizes.
            row["seconds"] = time.perf_counter() - start + shared * weight.numel() / elements
            self.rows.append({"layer": self._layer, "module": linear, **row, "peak_bytes": self._device.peak_bytes()})
        return [f"{self._prefix(linear)}.weight" for linear in quantized]

    def _target(self, linear: str, aim: Tensor) -> Target:
        """What is to be rounded for a linear: `aim` under learned clips, on the recipe's grid."""
        args = self._recipe.weights(self._layer, self._architecture.role(linear))
        assert args is not None
        if (ratios := self._inputs.weight_clips.get(linear)) is not None:
            aim = clip_rows(aim, ratios.to(aim))
        return Target(aim, args, self._recipe.clip_of(*self._architecture.parts(linear)))

    def _keep(self, linear: str, rounded: RoundedWeight, moved: Tensor | None) -> None:
        """Put a rounded weight among `qparams`; `moved` [out, in]: how far it was corrected before, if it was."""
        parts = {"integers": rounded.integers, "scale": rounded.scale, "zero_point": rounded.zero_point}
        if rounded.unseen is not None:
            parts["unseen"] = rounded.unseen.clone()  # of linears that share an input it is one tensor
        if moved is not None:
            parts["correction"] = torch.stack([moved.norm(), moved.abs().max()])
        self.qparams |= {f"{self._prefix(linear)}.{part}": t.cpu().contiguous() for part, t in parts.items()}

    def _prefix(self, linear: str) -> str:
        return self._architecture.linear_prefix(self._layer, linear)

    def _aims(
        self, site: Site, weights: list[Tensor], gram: Tensor | None, cross: Tensor | None
    ) -> tuple[list[Tensor], str | None]:
        """The weights that are to come near to the float model's outputs, and why they are the float ones, where that is news."""
        if gram is None or cross is None:
            return weights, None
        ridge = self._recipe.rounding.ridge_at(self._inputs.tokens / len(gram))
        assert ridge is not None
        corrected = method("rounding", self._recipe.rounding.name).corrected_weights(weights, gram, cross, ridge)
        return (corrected, None) if corrected is not None else (weights, f"no correction at {site.name}: H could not be factored")

    def round_all(self) -> None:
        """Round all linears, by what is known of their unscaled inputs. Raises ValueError where that is nothing."""
        for site in filter(self.quantized, self._architecture.sites):
            gram, sample = self._inputs.grams.get(site.name), self._inputs.samples.get(site.name)
            held_out = self._inputs.held_out.get(site.name)
            if (scale := self.scales.get(smoothing_key(self._layer, site.name))) is not None:
                gram = diagonal.apply_to_gram(gram, scale) if gram is not None else None
                sample = sample / diagonal.columns(scale) if sample is not None else None
                held_out = held_out.each(partial(diagonal.apply_to_gram, scale=scale)) if held_out is not None else None
            self.round(site, gram, sample, held_out=held_out)

    def weight(self, linear: str) -> Tensor:
        """The unrounded weight [out, in] (float32) of a linear, scalings folded in."""
        name = f"{self._prefix(linear)}.weight"
        tensor = self._tensors[name].to(self._device.torch_device).float()  # half the bytes travel
        return transformed(name, tensor, self.scales, self._architecture)


def _seen(site: Site, gram: Tensor | None, sample: Tensor | None, dtype: torch.dtype) -> LowerHalf | Rows:
    """What layer errors at a site are measured by; `dtype`: that in which its linears see a sample."""
    if gram is not None:
        return LowerHalf(gram)
    if sample is None:
        raise ValueError(f"nothing is known about the inputs of {site.linears[0]}")
    return Rows(sample.to(dtype))


def _errors(
    weight: Tensor, rounded: RoundedWeight, inputs: LowerHalf | Rows | None, tokens: int, args: WeightArgs
) -> dict[str, Any]:
    """Weight error, output error and mean squared output error (of known inputs) of one linear, and how it was rounded."""
    difference = dequantize_weight(rounded.integers, rounded.scale, rounded.zero_point).sub_(weight)
    of_outputs: dict[str, Any] = {}
    if inputs is not None:
        total = _squared_norm(weight, inputs)
        lost = rounded.lost if rounded.lost is not None else _squared_norm(difference, inputs)
        of_outputs = {"output_error": ratio(lost, total), "output_mse": lost / (tokens * weight.shape[0]), "tokens": tokens}
    ends = [(rounded.integers == end).count_nonzero().item() for end in integer_range(args.num_bits, args.symmetric)]
    return {
        "weight_error": ratio(_squares(difference), _squares(weight)),
        **of_outputs,
        "clip_fraction": sum(ends) / weight.numel(),
        "damping": rounded.damping,
        "condition_number": rounded.condition_number,
    }


def _of_unseen(unseen: Tensor) -> str:
    """What is to be known of a weight of which columns were rounded as 0."""
    return f"{int(unseen.sum())} of {len(unseen)} input channels are 0 on all calibration tokens: their weights were made 0"


def sampled_error(weight: Tensor, x: Tensor, output: Tensor) -> float:
    """|X Wᵀ - Y|² / |X Wᵀ|² of what a quantized linear made of X [tokens, in]: Y [tokens, out]; `weight` [out, in] is unrounded.

    Unlike the error from the Gram matrix it knows how inputs are quantized.
    """
    expected = multiply(x, weight.to(x).T)
    return ratio((expected - output).square().sum().item(), expected.square().sum().item())


def _squared_norm(weight: Tensor, inputs: LowerHalf | Rows) -> float:
    """|X Wᵀ|² = tr(W XᵀX Wᵀ)."""
    return max(0.0, inputs.quadratic_forms(weight).cpu().double().sum().item())


def _squares(matrix: Tensor) -> float:
    """Sum of squares of a matrix, without a second one."""
    return sum(torch.linalg.vector_norm(rows).double().square().item() for rows in matrix.split(_ROWS))


def ratio(part: float, whole: float) -> float:
    """part / whole; 0 / 0 is 0 (nothing there, nothing lost)."""
    return part / whole if whole else (0.0 if part == 0 else float("inf"))
