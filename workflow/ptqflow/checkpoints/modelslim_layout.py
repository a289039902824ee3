"""Form `modelslim` (AscendV1): integers as bytes, a scale per row, and `quant_model_description.json` naming each tensor's type.

Every quantized linear has `weight` int8 [out, in] (4-bit integers unpacked: the engine packs them as it loads), `weight_scale`
and `weight_offset` float32 [out, 1], the offset 0. W4A4_FLATQUANT_DYNAMIC adds, with x̂ = Lᵀ X R for X = x as [left, right]:
`left_trans` = L, `right_trans` = R in the model's dtype, and `clip_ratio` float32 [1], the ratio itself (1 where nothing is
clipped). Linears that the engine fuses load these one over the other, so they must be equal.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ptqflow.checkpoints.layout import BaseLayout, GridWeight, Linear, TensorSpec, scale_spec
from ptqflow.checkpoints.modelslim_scheme import FLATQUANT, FLOAT, type_of
from ptqflow.errors import ArtifactError
from ptqflow.modeling import online
from ptqflow.modeling.architectures import SITE_OF, SITES, block_prefix, linear_prefix
from ptqflow.numerics.factors import kronecker_split
from ptqflow.numerics.grid import integer_range

DESCRIPTION = "quant_model_description.json"
VERSION = "1.0.0"


class Layout(BaseLayout):
    """What is not a quantized weight is as in the float model, transforms folded in."""

    stem = "quant_model_weights"

    def linear_spec(self, linear: Linear) -> dict[str, TensorSpec]:
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
        return spec

    def encode(self, linear: Linear, weight: GridWeight) -> dict[str, Tensor]:
        """The tensors of `linear_spec`. Raises ArtifactError for what the type has no place for, naming the tensor."""
        if weight.zero_point.any():
            raise ArtifactError(f"{linear.prefix}.zero_point is not 0, and vllm-ascend ignores it; use weights.symmetric: true")
        tensors = {"weight": weight.integers, "weight_scale": weight.scale, "weight_offset": torch.zeros_like(weight.scale)}
        if type_of(linear.scheme, self.recipe) == FLATQUANT:
            tensors |= self._transform(linear)
        return tensors

    def _transform(self, linear: Linear) -> dict[str, Tensor]:
        """L, R and the clip ratio of a linear, from qparams."""
        site = next(site for site in SITES if site.name == SITE_OF[linear.scheme.linear])
        layer = linear.scheme.layer
        clips = {name: self.qparams[name] for name in (f"{linear_prefix(layer, reader)}.input_clip" for reader in site.linears)}
        ratio = clips[f"{linear.prefix}.input_clip"].float()
        for name, clip in clips.items():
            if clip.shape != (1, 2) or not (clip.float() == ratio[0, 0]).all():
                raise ArtifactError(
                    f"{name} is {clip.tolist()}, but {linear.prefix} clips at {ratio[0, 0]:g}: vllm-ascend has one ratio for "
                    "both ends of the range and all linears it fuses; quantize again with input_activations.symmetric: true"
                )
        sides = {
            part: self.qparams[f"{block_prefix(layer)}{online.owner(site)}.{part}"] for part in ("left_trans", "right_trans")
        }
        return {part: side[0].to(linear.dtype) for part, side in sides.items()} | {"clip_ratio": ratio[0, :1].clone()}

    def decode(self, linear: Linear, tensors: Mapping[str, Tensor]) -> GridWeight:
        """Integers, scale and zero point from these tensors."""
        scale = tensors["weight_scale"]
        return GridWeight(tensors["weight"], scale, torch.zeros(scale.shape, dtype=torch.int8))

    def documents(self) -> dict[str, dict[str, Any]]:
        """config.json as in the float model, and the type of every tensor."""
        types = {linear.prefix: type_of(linear.scheme, self.recipe) for linear in self.linears.values()}
        parts = {name: (self._linear(name), list(self.spec_of(name))) for name in sorted(self.source.file_of)}
        description = {key: types[linear.prefix] if linear else FLOAT for linear, keys in parts.values() for key in keys}
        most = max(types.values(), key=list(types.values()).count)
        return {
            "config.json": dict(self.config),
            DESCRIPTION: {"model_quant_type": most, "version": VERSION, "group_size": 0, **description},
        }
