"""A decoder block under FlatQuant's transforms: what is learned, and the tensors of the block that follow from it.

With P_s = A_s ⊗ B_s and channel scale c_s of site s (qkv, gate_up, down), P_v of the values' and P_k of the keys' head_dim,
and P_o across heads:

    x' = (x c_s) P_s;   W' = (W / c_s) P_s⁻ᵀ            c: in the norm before qkv and gate_up, in the rows of up_proj for down
    v' = v P_v;   attention output o' = P_oᵀ o P_v;   W_o' = W_o (P_o ⊗ P_v)⁻ᵀ
    k' = k P_k;   q' = q P_k⁻ᵀ                          after RoPE

Weights are clipped as they are quantized, v_proj after P_v (the reference clips it before, at another matrix's extremes). One
pair of clip ratios serves all linears that read a site, so a fused engine can quantize their input once; where all quantize it
symmetrically, both ratios are one number. Sites that the recipe leaves out have neither transform nor input clip.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from ptqflow.methods.rounding import quantize_clipped
from ptqflow.methods.transforms.flatquant_settings import FlatQuantTransform
from ptqflow.modeling.anatomy import Architecture
from ptqflow.modeling.cache import CACHE
from ptqflow.modeling.online import owner
from ptqflow.modeling.shapes import kronecker_sides, shards_of
from ptqflow.numerics.inverse import Inverse, inverse
from ptqflow.numerics.linalg import random_orthogonal
from ptqflow.recipes import Recipe
from ptqflow.scheme import QuantizationArgs
from ptqflow.transforms import diagonal, kronecker

Block = Mapping[str, Tensor]  # tensors of a block by their names inside it
SCALED = ("qkv", "gate_up", "down")
_FLOOR = 1e-5


@dataclass(frozen=True)
class Transforms:
    """Everything learned of a block of an architecture, as values.

    `matrices` [shards, n, n]: {site}_left, {site}_right, k, v; channel `scales` c [n] by site; `input_clips` [shards, 2] by
    site, `cache_clips` [1, 2] of k and v, `weight_clips` [out, 2] by linear: ratios of the low and high end of the range.
    """

    architecture: Architecture
    matrices: Mapping[str, Tensor]
    scales: Mapping[str, Tensor]
    input_clips: Mapping[str, Tensor]
    cache_clips: Mapping[str, Tensor]
    weight_clips: Mapping[str, Tensor]

    def sides(self, site: str) -> tuple[Tensor, Tensor] | None:
        """A and B of a site's input, None where it is left alone; o_proj's is mixed across heads by P_o, inside them by P_v."""
        if f"{site}_left" not in self.matrices:
            return None
        return self.matrices[f"{site}_left"], self.matrices["v" if site == "o" else f"{site}_right"]

    def to(self, device: torch.device, dtype: torch.dtype) -> "Transforms":
        """The same on another device or in another dtype."""
        parts = (getattr(self, part.name) for part in fields(self)[1:])
        return Transforms(self.architecture, *({name: t.to(device, dtype) for name, t in part.items()} for part in parts))


class Direct(nn.Module):
    """Matrices [shards, n, n] whose entries are learned, from given ones."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.entries = nn.Parameter(start)

    def forward(self) -> Tensor:
        """The matrices."""
        return self.entries


class Svd(nn.Module):
    """P = U diag(s) Vᵀ, from given orthogonal matrices: U = start · Cayley(X), V = Cayley(Y), log s = log(100) tanh(z).

    Cayley(X) = (I - S)(I + S)⁻¹ with S = X - Xᵀ is a rotation for every X, and the identity at X = 0, where all start; so the
    condition number is at most 10⁴ and starts at 1.
    """

    start: Tensor
    _LARGEST_LOG = math.log(100)

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.left, self.right = nn.Parameter(torch.zeros_like(start)), nn.Parameter(torch.zeros_like(start))
        self.spread = nn.Parameter(torch.zeros_like(start[:, :1]))

    def forward(self) -> Tensor:
        """The matrices."""
        scale = (self._LARGEST_LOG * self.spread.tanh()).exp()
        product: Tensor = (self.start @ _cayley(self.left) * scale) @ _cayley(self.right).mT
        return product


def _cayley(free: Tensor) -> Tensor:
    skew, identity = free - free.mT, torch.eye(free.shape[-1]).to(free)
    return (identity - skew) @ inverse(identity + skew)


class Learned(nn.Module):
    """The parameters. Matrices start random orthogonal (seeded), scales as SmoothQuant's, clips at sigmoid(clip_logit)."""

    def __init__(
        self,
        architecture: Architecture,
        block: Block,
        head_dim: int,
        absmax: Mapping[str, Tensor],
        recipe: Recipe,
        layer: int,
        settings: FlatQuantTransform,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        generator = torch.Generator().manual_seed(settings.seed + layer)
        parametrized: type[Direct | Svd] = Svd if settings.parametrization == "svd" else Direct

        def matrix(n: int, shards: int = 1) -> nn.Module:
            return parametrized(torch.stack([random_orthogonal(n, generator).float() for _ in range(shards)]))

        def logits(rows: int, ends: int = 2) -> nn.Parameter:
            return nn.Parameter(torch.full((rows, ends), settings.clip_logit))

        self.matrices, self.log_scales = nn.ModuleDict(), nn.ParameterDict()
        self.input_clips, self.cache_clips, self.weight_clips = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for site in architecture.sites:
            weights = {linear: block[f"{architecture.module_name(linear)}.weight"].float() for linear in site.linears}
            for linear, weight in weights.items():
                self.weight_clips[linear] = logits(weight.shape[0])
            if site.name not in settings.sites:
                continue
            shards, channels = shards_of(recipe, site.linears[0]), weights[site.linears[0]].shape[1]
            left, right = kronecker_sides(site.name, channels, head_dim, shards)
            self.matrices[f"{site.name}_left"] = matrix(left, shards)
            if site.name != "o":
                self.matrices[f"{site.name}_right"] = matrix(right, shards)
            if site.name in SCALED:
                scale = initial_scale(absmax[site.name], torch.cat(list(weights.values())), settings.smoothing_strength)
                self.log_scales[site.name] = nn.Parameter(scale.log())
            readers = [recipe.input_activations(layer, linear) for linear in site.linears]
            self.input_clips[site.name] = logits(shards, _ends(readers))
        if "o" in settings.sites:
            self.matrices["v"] = matrix(head_dim)
        if (cache := recipe.scheme.kv_cache) is not None:
            self.matrices["k"] = matrix(head_dim)
            self.cache_clips.update({name: logits(1, _ends([cache])) for name in ("k", "v")})

    def values(self) -> Transforms:
        """The transforms, differentiable in the parameters."""
        clips = (self.input_clips, self.cache_clips, self.weight_clips)
        ratios = [{name: logits.sigmoid().expand(-1, 2) for name, logits in d.items()} for d in clips]
        matrices = {name: matrix() for name, matrix in self.matrices.items()}
        return Transforms(self.architecture, matrices, {n: p.exp() for n, p in self.log_scales.items()}, *ratios)

    @torch.no_grad()
    def set_identity(self) -> None:
        """No transform and no clip: the block is then plain round-to-nearest."""
        for name, matrix in self.matrices.items():
            value = matrix()
            self.matrices[name] = Direct(torch.eye(value.shape[-1]).to(value).expand_as(value).clone())
        for parameter in self.log_scales.values():
            parameter.zero_()
        for clips in (self.input_clips, self.cache_clips, self.weight_clips):
            for parameter in clips.values():
                parameter.fill_(torch.inf)


def _ends(readers: Sequence[QuantizationArgs | None]) -> int:
    """How many clip ratios an input has: one where no reader tells its two ends apart, else one for each."""
    return 1 if all(args is None or args.symmetric for args in readers) else 2


def initial_scale(absmax: Tensor, weight: Tensor, strength: float) -> Tensor:
    """c [in] = max|W|^(1-a) / max|x|^a per channel, at least 1e-5 (the reciprocal of SmoothQuant's scale at strength a)."""
    columns = weight.abs().amax(0).cpu().clamp(min=_FLOOR)
    return (columns.pow(1 - strength) / absmax.float().clamp(min=_FLOOR).pow(strength)).clamp(min=_FLOOR)


def fold(block: Block, transforms: Transforms, invert: Inverse = inverse) -> dict[str, Tensor]:
    """The block's tensors with all transforms in, before quantization, in the dtype of the matrices."""
    matrices, scales, found = transforms.matrices, transforms.scales, transforms.architecture
    dtype = next(iter(matrices.values())).dtype
    result = {name: tensor.to(dtype) for name, tensor in block.items()}
    for site in found.sites:
        if (sides := transforms.sides(site.name)) is None:
            continue
        left, right = (invert(side).mT for side in sides)
        for linear in site.linears:
            name = f"{found.module_name(linear)}.weight"
            weight = result[name] / scales[site.name] if site.name in scales else result[name]
            result[name] = kronecker.apply(weight, left, right)
        if site.norm and site.name in scales:
            result[f"{site.norm}.weight"] = result[f"{site.norm}.weight"] * scales[site.name]
    values, ups = found.module_name("v_proj"), found.module_name("up_proj")
    if "v" in matrices:
        heads = result[f"{values}.weight"].unflatten(0, (-1, matrices["v"].shape[-1]))
        result[f"{values}.weight"] = (matrices["v"].mT @ heads).flatten(0, 1)
        if (bias := result.get(f"{values}.bias")) is not None:
            result[f"{values}.bias"] = (bias.unflatten(0, heads.shape[:2]) @ matrices["v"][0]).flatten()
    if "down" in scales:
        result[f"{ups}.weight"] = result[f"{ups}.weight"] * scales["down"].unsqueeze(1)
        if (bias := result.get(f"{ups}.bias")) is not None:
            result[f"{ups}.bias"] = bias * scales["down"]
    return result


def online_tensors(transforms: Transforms, invert: Inverse = inverse) -> dict[str, Tensor]:
    """What acts at inference, by name inside the block (`modeling.online`)."""
    matrices, architecture, found = transforms.matrices, transforms.architecture, {}
    for site in (site for site in architecture.sites if transforms.sides(site.name)):
        found[f"{owner(architecture, site)}.left_trans"] = matrices[f"{site.name}_left"]
        if site.name != "o":
            found[f"{owner(architecture, site)}.right_trans"] = matrices[f"{site.name}_right"]
        found |= {f"{architecture.module_name(linear)}.input_clip": transforms.input_clips[site.name] for linear in site.linears}
    if "k" in matrices:
        found |= {f"{CACHE}.k_trans": matrices["k"][0], f"{CACHE}.q_trans": invert(matrices["k"])[0].mT}
        found |= {f"{CACHE}.{name}_clip": ratios for name, ratios in transforms.cache_clips.items()}
    return found


def quantize_weights(block: Block, transforms: Transforms, recipe: Recipe, layer: int) -> dict[str, Tensor]:
    """A folded block with its weights clipped, rounded to nearest and dequantized, differentiably; float32."""
    result = dict(block)
    for site in transforms.architecture.sites:
        for linear in site.linears:
            if (args := recipe.weights(layer, linear)) is not None:
                name = f"{transforms.architecture.module_name(linear)}.weight"
                result[name] = quantize_clipped(result[name], args, transforms.weight_clips[linear], shards_of(recipe, linear))
    return result


def rounded_to(transforms: Transforms, block: Block, wide: torch.dtype = torch.float64) -> Transforms:
    """The transforms as the checkpoint holds them, in float64 (or `wide`) on the CPU.

    Matrices and clips are rounded to the dtype of its weights; inverses are then taken of the rounded matrices, so that both
    still cancel. Scales become what its norms can hold.
    """
    found = transforms.architecture
    dtype = block[f"{found.module_name('o_proj')}.weight"].dtype

    def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.detach().to(dtype).cpu().to(wide) for name, t in tensors.items()}

    scales = {name: scale.detach().cpu().to(wide) for name, scale in transforms.scales.items()}
    for site in found.sites:
        if site.norm and site.name in scales:
            held = diagonal.representable(scales[site.name].float().reciprocal(), block[f"{site.norm}.weight"])
            scales[site.name] = held.to(wide).reciprocal()
    weight_clips = {name: t.detach().cpu().to(wide) for name, t in transforms.weight_clips.items()}
    clips = stored(transforms.input_clips), stored(transforms.cache_clips), weight_clips
    return Transforms(found, stored(transforms.matrices), scales, *clips)


def transform_grams(grams: Mapping[str, Tensor], transforms: Transforms) -> dict[str, Tensor]:
    """Gram matrices of the sites' inputs after the transforms, float32 on the device of `grams`."""
    found = {}
    for site, gram in grams.items():
        if (sides := transforms.sides(site)) is None:
            found[site] = gram
            continue
        left, right = (side.to(gram) for side in sides)
        if site in transforms.scales:
            gram = diagonal.apply_to_gram(gram, transforms.scales[site].reciprocal().to(gram))
        found[site] = kronecker.apply_to_gram(gram, left, right)
    return found


def condition_numbers(transforms: Transforms) -> dict[str, float]:
    """Largest condition number (over shards) of each matrix."""
    return {name: torch.linalg.cond(m.detach().cpu().double()).max().item() for name, m in transforms.matrices.items()}
