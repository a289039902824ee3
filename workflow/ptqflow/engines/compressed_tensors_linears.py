"""The linears of a checkpoint of form `compressed-tensors`, as integer ones: W8A8, W4A8, W4A4 by row or group; W8A16, W4A16."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.utils import match_named_modules
from torch import Tensor, nn

from ptqflow.devices.device import Device
from ptqflow.devices.weight_only import int4_weight, int8_weight
from ptqflow.errors import ConfigError
from ptqflow.modeling.input_scheme import InputQuantizer, InputScheme
from ptqflow.modeling.integer_cache import CacheScale, CacheScales
from ptqflow.modeling.integer_linear import WeightOnlyLinear, integer_linear
from ptqflow.modeling.weights import Weights
from ptqflow.numerics.convention import Grid
from ptqflow.numerics.packing import unpack_weight

METHOD = "compressed-tensors"
_STRATEGIES = ("tensor", "channel", "group")
_CACHE = ("k_scale", "v_scale")
_PARTS = {
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_shape",
    "weight_zero_point",
    "bias",
    "input_scale",
    "input_zero_point",
}


class CompressedTensors:
    """A checkpoint of this form."""

    def __init__(self, folder: Path, quantization: Mapping[str, Any]) -> None:
        """Reads `quantization_config` as the library does. Raises ConfigError for what acts beside linears and a cache."""
        if (transforms := quantization.get("transform_config")) and transforms.get("config_groups"):
            names = ", ".join(transforms["config_groups"])
            raise ConfigError(f"{folder}: engine transformers-int has no transform_config ({names}); use engine vllm")
        self.folder, self.weights = folder, Weights(folder)
        self.quantization: QuantizationConfig = QuantizationConfig.model_validate(quantization)

    def linears(self, model: nn.Module, device: Device) -> Iterator[tuple[str, nn.Module, set[str]]]:
        """Name, integer linear and names of its tensors, of every linear that is quantized; which these are, the library says.

        Raises ConfigError naming a linear that has no kernel here.
        """
        shared: list[InputQuantizer] = []
        for scheme in self.quantization.config_groups.values():
            for name, module in match_named_modules(model, scheme.targets, self.quantization.ignore):
                if isinstance(module, nn.Linear):
                    stored = {key for key in self.weights.file_of if key.rpartition(".")[0] == name}
                    tensors = {key.rpartition(".")[2]: tensor for key, tensor in self.weights.load(sorted(stored)).items()}
                    yield name, _linear(name, tensors, scheme, device, shared), stored

    def cache(self) -> dict[str, CacheScales]:
        """Scales of a static 8-bit cache by name of the attention module; none without one.

        Raises ConfigError for another kind of cache.
        """
        args = self.quantization.kv_cache_scheme
        if args is None:
            return {}
        if args.type != "int" or args.num_bits != 8 or args.dynamic or not args.symmetric:
            kind = f"{args.type}{args.num_bits}, {'dynamic' if args.dynamic else 'static'}, symmetric: {args.symmetric}"
            raise ConfigError(
                f"{self.folder}: engine transformers-int has static symmetric caches of 8-bit integers, not kv_cache_scheme "
                f"{kind}; use form fake, or engine vllm"
            )
        found = {}
        for name in (name.removesuffix(_CACHE[0]) for name in self.cache_tensors() if name.endswith(_CACHE[0])):
            keys, values = (self.weights[f"{name}{part}"].float() for part in _CACHE)
            found[name.removesuffix(".")] = CacheScales(*(CacheScale(s, torch.zeros_like(s)) for s in (keys, values)))
        return found

    def cache_tensors(self) -> set[str]:
        """Names of what `cache` reads."""
        return {name for name in self.weights.file_of if name.rpartition(".")[2] in _CACHE}


def _linear(
    name: str, tensors: Mapping[str, Tensor], scheme: QuantizationScheme, device: Device, shared: list[InputQuantizer]
) -> nn.Module:
    where, args, inputs = device.torch_device, scheme.weights, scheme.input_activations
    kind = f"W{args.num_bits}A{inputs.num_bits if inputs else 16} {args.strategy}"
    if scheme.output_activations is not None or ("weight" in tensors and tensors["weight"].is_floating_point()):
        odd = "quantized outputs" if scheme.output_activations is not None else "weights stored as floats"
        raise ConfigError(f"{name}: transformers-int has no kernel for {odd}; use engine vllm, or save the model compressed")
    if tensors.keys() - _PARTS or args.type != "int" or args.strategy not in _STRATEGIES or not _by_token_or_static(inputs):
        odd = ", ".join(sorted(tensors.keys() - _PARTS)) or scheme.format
        raise ConfigError(f"{name}: transformers-int has no kernel for {kind} ({odd}); use engine transformers or vllm")
    integers, scale, zero_point = _weight(tensors, args)
    group = args.group_size if args.strategy == "group" else integers.shape[1]
    if integers.shape[1] != group * scale.shape[1]:
        raise ConfigError(
            f"{name}: {integers.shape[1]} inputs are not {scale.shape[1]} groups of {group}; transformers-int has no kernel "
            "for a shorter last group: use engine vllm, or another group_size"
        )
    bias = tensors["bias"].to(where) if "bias" in tensors else None
    if inputs is None:
        bias = None if bias is None else bias.to(device.compute_dtype)
        if args.num_bits == 4:
            return WeightOnlyLinear(int4_weight(integers, scale, zero_point, device.compute_dtype, where), bias)
        if args.num_bits == 8 and scale.shape[1] == 1 and (zero_point == 128).all():
            signed = (integers.short() - 128).to(torch.int8)
            return WeightOnlyLinear(int8_weight(signed, scale[:, 0], device.compute_dtype, where), bias)
    elif inputs.num_bits <= 8 and (args.num_bits < 8 or args.symmetric):
        difference = integers.short() - zero_point.short().repeat_interleave(integers.shape[1] // scale.shape[1], 1)
        weight, dtype = difference.to(torch.int8).to(where), device.compute_dtype
        bits = 8 if zero_point.numel() and (zero_point != 2 ** (args.num_bits - 1)).any() else args.num_bits
        return integer_linear(weight, scale.to(where), bias, _inputs(tensors, inputs, where), bits, dtype, shared)
    raise ConfigError(
        f"{name}: engine transformers-int has no kernel for {kind} ({scheme.format}): it has weights and inputs of up to 8 bits "
        "(weights of 8: symmetric), W4A16, and W8A16 by row; use engine transformers or "
        "vllm, or form fake"
    )


def _inputs(tensors: Mapping[str, Tensor], args: QuantizationArgs, where: torch.device) -> InputScheme:
    """What becomes of a linear's inputs; static ones have signed integers, and a zero point where that is not 0."""
    scale, zero_point = tensors.get("input_scale"), tensors.get("input_zero_point")
    if scale is None:
        return InputScheme(Grid(args.num_bits, args.symmetric))
    zero_point = None if zero_point is None or not zero_point.any() else zero_point.float().reshape(1).to(where)
    return InputScheme(Grid(args.num_bits, symmetric=True), scale.float().reshape(1).to(where), zero_point)


def _by_token_or_static(inputs: QuantizationArgs | None) -> bool:
    if inputs is None:
        return True
    by_token, static = inputs.dynamic is True and inputs.strategy == "token", not inputs.dynamic and inputs.strategy == "tensor"
    return inputs.type == "int" and (by_token or static)


def _weight(tensors: Mapping[str, Tensor], args: QuantizationArgs) -> tuple[Tensor, Tensor, Tensor]:
    """Unsigned integers uint8 [out, in], scales float32 and zero points uint8 [out, groups], from bytes or from words."""
    packed, half = "weight_packed" in tensors, 2 ** (args.num_bits - 1)
    stored, zero_point = tensors["weight_packed" if packed else "weight"], tensors.get("weight_zero_point")
    scale = _by_row(tensors["weight_scale"].float(), len(stored))
    if packed:  # as are zero points, but for one of a whole tensor
        words = None if args.strategy == "tensor" else zero_point
        integers, zeros = unpack_weight(stored, tensors["weight_shape"].tolist(), args.num_bits, scale.shape, words)
    else:
        integers, zeros = (stored.short() + half).to(torch.uint8), torch.full(scale.shape, half, dtype=torch.uint8)
    if zero_point is not None and zero_point.dtype == torch.int8:
        zeros = _by_row((zero_point.short() + half).to(torch.uint8), len(stored))
    return integers, scale, zeros


def _by_row(parameter: Tensor, out: int) -> Tensor:
    """A scale or zero point of a tensor, of each row or of each group, as [out, groups]."""
    return parameter.reshape(-1, parameter.shape[-1]).expand(out, -1)
