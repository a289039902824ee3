"""The linears and the cache of a checkpoint of form `modelslim` (AscendV1), as integer ones: what vllm-ascend serves on an NPU.

W8A16, W8A8 (static), W8A8_DYNAMIC, W4A4_DYNAMIC, W4A4_FLATQUANT_DYNAMIC; `checkpoints.modelslim_layout` says what each holds.
Static inputs are multiplied by 1 / input_scale, rounded to the model's dtype, and results by `deq_scale`, as there.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptqflow.devices.device import Device
from ptqflow.devices.weight_only import int8_weight
from ptqflow.errors import ConfigError
from ptqflow.modeling.input_scheme import InputQuantizer, InputScheme
from ptqflow.modeling.integer_cache import CacheScale, CacheScales
from ptqflow.modeling.integer_linear import WeightOnlyLinear, integer_linear
from ptqflow.modeling.weights import Weights
from ptqflow.numerics.convention import Grid
from ptqflow.system import reading

DESCRIPTION = "quant_model_description.json"
STEM = "quant_model_weights"
_BITS = {"W8A8": 8, "W8A8_DYNAMIC": 8, "W4A4_DYNAMIC": 4, "W4A4_FLATQUANT_DYNAMIC": 4}  # of inputs; W8A16 has none
_PARTS = {"weight", "weight_scale", "weight_offset", "bias"}
_MORE = {
    "W8A8": {"input_scale", "input_offset", "deq_scale", "quant_bias"},
    "W4A4_FLATQUANT_DYNAMIC": {"left_trans", "right_trans", "clip_ratio"},
}
_OPTIONAL = {"W8A8": {"bias", "weight_scale", "weight_offset"}}  # msmodelslim leaves out what deq_scale and quant_bias hold
_CACHE = ("kv_cache_scale", "kv_cache_offset")


class ModelSlim:
    """A checkpoint of this form."""

    def __init__(self, folder: Path) -> None:
        """Reads what `quant_model_description.json` says."""
        path = folder / DESCRIPTION
        with reading(path, "a JSON object", "export the checkpoint again"):
            self.said: dict[str, Any] = json.loads(path.read_text())
        self.weights = Weights(folder, STEM)

    def linears(self, model: nn.Module, device: Device) -> Iterator[tuple[str, nn.Module, set[str]]]:
        """Name, integer linear and names of its tensors, of every linear whose type is not FLOAT.

        Raises ConfigError naming a linear that has no kernel here.
        """
        shared: list[InputQuantizer] = []
        for name, module in model.named_modules():
            kind = self.said.get(f"{name}.weight", "FLOAT")
            if isinstance(module, nn.Linear) and kind != "FLOAT":
                if kind != "W8A16" and kind not in _BITS:
                    known = ", ".join(["W8A16", *_BITS])
                    raise ConfigError(f"{name}: transformers-int has no kernel for type {kind}, only {known}; use vllm-ascend")
                stored = {key for key in self.weights.file_of if key.rpartition(".")[0] == name and not key.endswith(_CACHE)}
                tensors = {key.rpartition(".")[2]: tensor for key, tensor in self.weights.load(sorted(stored)).items()}
                allowed, optional = _PARTS | _MORE.get(kind, set()), _OPTIONAL.get(kind, {"bias"})
                if wrong := sorted((allowed - optional - tensors.keys()) | (tensors.keys() - allowed)):
                    raise ConfigError(f"{name}.{wrong[0]} is missing of type {kind}, or too much; export the checkpoint again")
                if tensors.get("weight_offset", torch.zeros(1)).any():
                    raise ConfigError(f"{name}.weight_offset is not 0, and transformers-int has no such kernel; use vllm-ascend")
                yield name, _linear(kind, tensors, device, shared), stored

    def cache(self) -> dict[str, CacheScales]:
        """Scales of a static 8-bit cache by name of the attention module; none without one.

        Raises ConfigError for another kind of cache.
        """
        kind = self.said.get("kv_cache_type")
        if kind not in (None, "C8"):
            raise ConfigError(f"{DESCRIPTION}: kv_cache_type {kind!r} is no cache that transformers-int has; it has C8")
        names = [name for name in self.cache_tensors() if name.endswith(f".k_proj.{_CACHE[0]}")] if kind else []
        found = {}
        for name in (name.removesuffix(f".k_proj.{_CACHE[0]}") for name in names):
            keys, values = (
                [self.weights[f"{name}.{linear}.{part}"].float() for part in _CACHE] for linear in ("k_proj", "v_proj")
            )
            found[name] = CacheScales(CacheScale(*keys), CacheScale(*values))
        return found

    def cache_tensors(self) -> set[str]:
        """Names of what `cache` reads."""
        return {name for name in self.weights.file_of if name.endswith(_CACHE)}


def _linear(kind: str, tensors: Mapping[str, Tensor], device: Device, shared: list[InputQuantizer]) -> nn.Module:
    where, weight = device.torch_device, tensors["weight"].to(device.torch_device)
    scale = tensors["weight_scale"].float() if "weight_scale" in tensors else torch.empty(0)
    bias = tensors["bias"].float().to(where) if "bias" in tensors else None
    if kind == "W8A16":
        bias = None if bias is None else bias.to(device.compute_dtype)
        return WeightOnlyLinear(int8_weight(weight, scale[:, 0], device.compute_dtype, where), bias)
    scheme = InputScheme(Grid(_BITS[kind], symmetric=True))
    if kind == "W8A8":
        step, offset = 1 / tensors["input_scale"].reciprocal().float().reshape(1), tensors["input_offset"].float().reshape(1)
        deq_scale = _float32(tensors["deq_scale"])
        scheme = InputScheme(scheme.grid, step.to(where), offset.to(where) if offset.any() else None)
        scale = (deq_scale / step)[:, None]
        added = tensors["quant_bias"].double() + offset.double() * tensors["weight"].double().sum(1)
        bias = (added * deq_scale.double()).float().to(where)
    elif kind == "W4A4_FLATQUANT_DYNAMIC":
        sides = (tensors[side].to(where, device.compute_dtype) for side in ("left_trans", "right_trans"))
        scheme = InputScheme(scheme.grid, None, None, float(tensors["clip_ratio"]), *sides)
    return integer_linear(weight, scale.to(where), bias, scheme, _BITS[kind], device.compute_dtype, shared)


def _float32(deq_scale: Tensor) -> Tensor:
    """Scales float32 [out], which models in float16 store as bits in int64."""
    return deq_scale.to(torch.int32).view(torch.float32) if deq_scale.dtype == torch.int64 else deq_scale.float()
