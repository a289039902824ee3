"""Form `modelslim` (AscendV1): integers as bytes, a scale per row, and `quant_model_description.json` naming each tensor's type.

Every quantized linear has `weight` int8 [out, in] (4-bit integers unpacked: the engine packs them as it loads), `weight_scale`
and `weight_offset` float32 [out, 1], the offset 0. W4A4_FLATQUANT_DYNAMIC adds, with x̂ = Lᵀ X R for X = x as [left, right]:
`left_trans` = L, `right_trans` = R in the model's dtype, and `clip_ratio` float32 [1], the ratio itself (1 where nothing is
clipped). Linears that the engine fuses load these one over the other, so they must be equal.

W8A8 (static inputs) adds `input_scale` [1] in the model's dtype, `input_offset` int8 [1] = 0, `deq_scale` [out] (float32; in a
float16 model its bits as int64) and `quant_bias` int32 [out] = round(bias / deq_scale). The engine multiplies x by the inverse of
input_scale, rounded to the model's dtype, so `deq_scale` is weight_scale times the inverse of *that*.

An 8-bit cache (C8, static, keys after RoPE) adds `kv_cache_scale` and `kv_cache_offset` = 0 [kv_heads * head_dim] to k_proj and
v_proj.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ptqflow.checkpoints.layout import WEIGHT, BaseLayout, GridWeight, QuantizedLinear, TensorSpec, scale_spec
from ptqflow.checkpoints.modelslim_scheme import FLATQUANT, FLOAT, W8A8, type_of
from ptqflow.errors import ArtifactError
from ptqflow.modeling import online
from ptqflow.modeling.anatomy import block_prefix
from ptqflow.modeling.dimensions import linear_shapes
from ptqflow.numerics.factors import kronecker_split
from ptqflow.numerics.grid import integer_range

DESCRIPTION = "quant_model_description.json"
VERSION = "1.0.0"
C8 = "C8"
_CACHED = {"k_proj": "k", "v_proj": "v"}  # what they make, by its name in qparams


class Layout(BaseLayout):
    """What is not a quantized weight is as in the float model, transforms folded in."""

    stem = "quant_model_weights"

    def linear_spec(self, linear: QuantizedLinear) -> dict[str, TensorSpec]:
        """Integers, scales, offsets, and what FlatQuant leaves to do at inference."""
        rows = linear.shape[0]
        low, high = integer_range(linear.weights.num_bits, symmetric=True)
        spec = {
            "weight": TensorSpec(torch.int8, linear.shape, low, high),
            "weight_scale": scale_spec(torch.float32, rows, 1),
            "weight_offset": TensorSpec(torch.float32, (rows, 1), 0, 0),
        }
        if type_of(linear.scheme, self.recipe) == FLATQUANT:
            left, right = kronecker_split(linear.shape[1])
            spec["left_trans"] = TensorSpec(linear.dtype, (left, left))
            spec["right_trans"] = TensorSpec(linear.dtype, (right, right))
            spec["clip_ratio"] = TensorSpec(torch.float32, (1,), 0, 1)
        if type_of(linear.scheme, self.recipe) == W8A8:
            spec["input_scale"] = scale_spec(linear.dtype, 1)
            spec["input_offset"] = TensorSpec(torch.int8, (1,), 0, 0)
            bits = linear.dtype == torch.float16
            spec["deq_scale"] = TensorSpec(torch.int64, (rows,), 1) if bits else scale_spec(torch.float32, rows)
            spec["quant_bias"] = TensorSpec(torch.int32, (rows,))
        return spec | self._cache_spec(linear.prefix)

    def encode(self, linear: QuantizedLinear, weight: GridWeight) -> dict[str, Tensor]:
        """The tensors of `linear_spec`. Raises ArtifactError for what the type has no place for, naming the tensor."""
        if weight.zero_point.any():
            raise ArtifactError(f"{linear.prefix}.zero_point is not 0, and this form has none; use weights.symmetric: true")
        tensors = {"weight": weight.integers, "weight_scale": weight.scale, "weight_offset": torch.zeros_like(weight.scale)}
        if type_of(linear.scheme, self.recipe) == FLATQUANT:
            tensors |= self._transform(linear)
        if type_of(linear.scheme, self.recipe) == W8A8:
            tensors |= self._static(linear, weight.scale[:, 0])
        return tensors | self._cache(linear.prefix)

    def _static(self, linear: QuantizedLinear, weight_scale: Tensor) -> dict[str, Tensor]:
        """What W8A8 needs beside the weight; weight_scale [out] float32."""
        input_scale = self.qparams[f"{linear.prefix}.input_scale"].to(linear.dtype)
        deq_scale = weight_scale / input_scale.reciprocal().float()
        bias_name = f"{linear.prefix}.bias"
        bias = self.float_tensors(bias_name)[bias_name].double() if bias_name in self.source.file_of else torch.zeros(1)
        quant_bias = torch.round(bias / deq_scale.double())
        if quant_bias.abs().max() > torch.iinfo(torch.int32).max:
            raise ArtifactError(
                f"{bias_name} is beyond 32-bit integers in steps of deq_scale; use input_activations.dynamic: true"
            )
        return {
            "input_scale": input_scale,
            "input_offset": torch.zeros(1, dtype=torch.int8),
            "deq_scale": deq_scale.view(torch.int32).long() if linear.dtype == torch.float16 else deq_scale,
            "quant_bias": quant_bias.int().expand(len(weight_scale)),
        }

    def _cache(self, prefix: str) -> dict[str, Tensor]:
        """Scales and offsets of the cache, for k_proj and v_proj of a recipe with a static cache."""
        attention, _, linear = prefix.rpartition(".")
        if self.recipe.scheme.kv_cache is None or linear not in _CACHED:
            return {}
        scale = self.qparams[f"{attention}.cache_transform.{_CACHED[linear]}_scale"].float().flatten()
        return {"kv_cache_scale": scale, "kv_cache_offset": torch.zeros_like(scale)}

    def _cache_spec(self, prefix: str) -> dict[str, TensorSpec]:
        if self.recipe.scheme.kv_cache is None or prefix.rpartition(".")[2] not in _CACHED:
            return {}
        channels = linear_shapes(self.config)["k_proj"][0]
        return {
            "kv_cache_scale": scale_spec(torch.float32, channels),
            "kv_cache_offset": TensorSpec(torch.float32, (channels,), 0, 0),
        }

    def float_spec(self, name: str) -> dict[str, TensorSpec]:
        """The tensor itself; beside the weight of an unquantized k_proj or v_proj, the cache's."""
        prefix = name.removesuffix(WEIGHT)
        return super().float_spec(name) | {f"{prefix}.{part}": spec for part, spec in self._cache_spec(prefix).items()}

    def float_tensors(self, name: str) -> dict[str, Tensor]:
        """These tensors."""
        prefix = name.removesuffix(WEIGHT)
        return super().float_tensors(name) | {f"{prefix}.{part}": tensor for part, tensor in self._cache(prefix).items()}

    def _transform(self, linear: QuantizedLinear) -> dict[str, Tensor]:
        """L, R and the clip ratio of a linear, from qparams."""
        site, layer = self.architecture.site_of(linear.scheme.linear), linear.scheme.layer
        readers = [self.architecture.linear_prefix(layer, reader) for reader in site.linears]
        clips = {name: self.qparams[name] for name in (f"{reader}.input_clip" for reader in readers)}
        ratio = clips[f"{linear.prefix}.input_clip"].float()
        for name, clip in clips.items():
            if clip.shape != (1, 2) or not (clip.float() == ratio[0, 0]).all():
                raise ArtifactError(
                    f"{name} is {clip.tolist()}, but {linear.prefix} clips at {ratio[0, 0]:g}: vllm-ascend has one ratio for "
                    "both ends of the range and all linears it fuses; quantize again with input_activations.symmetric: true"
                )
        sides = {
            part: self.qparams[f"{block_prefix(layer)}{online.owner(self.architecture, site)}.{part}"]
            for part in ("left_trans", "right_trans")
        }
        return {part: side[0].to(linear.dtype) for part, side in sides.items()} | {"clip_ratio": ratio[0, :1].clone()}

    def decode(self, linear: QuantizedLinear, tensors: Mapping[str, Tensor]) -> GridWeight:
        """Integers, scale and zero point from these tensors."""
        scale = tensors["weight_scale"]
        return GridWeight(tensors["weight"], scale, torch.zeros(scale.shape, dtype=torch.int8))

    def documents(self) -> dict[str, dict[str, Any]]:
        """config.json as in the float model, and the type of every tensor."""
        types = {linear.prefix: type_of(linear.scheme, self.recipe) for linear in self.linears.values()}
        parts = {name: (self._linear(name), list(self.spec_of(name))) for name in sorted(self.source.file_of)}
        description = {key: types[linear.prefix] if linear else FLOAT for linear, keys in parts.values() for key in keys}
        description = {key: C8 if ".kv_cache_" in key else kind for key, kind in description.items()}
        if self.recipe.scheme.kv_cache is not None:
            description["kv_cache_type"] = C8
        most = max(types.values(), key=list(types.values()).count)
        return {
            "config.json": dict(self.config),
            DESCRIPTION: {"model_quant_type": most, "version": VERSION, "group_size": 0, **description},
        }
