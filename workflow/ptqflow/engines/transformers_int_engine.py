"""transformers with integer kernels: real checkpoints (`compressed-tensors`) computed with the integers they hold.

Everything but the linears is the engine `transformers`: the float model, the fake and the real form are timed and scored in one
engine and mode. W8A8 with inputs quantized by token or by one static scale, and W4A16 in groups; what has no kernel is refused.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from compressed_tensors.utils import match_named_modules
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ptqflow.devices.device import Device
from ptqflow.devices.products import Int4Weight
from ptqflow.engines import transformers_engine
from ptqflow.engines.transformers_engine import TransformersEngine
from ptqflow.errors import ConfigError
from ptqflow.modeling.integer_linear import Int4Linear, Int8Linear
from ptqflow.modeling.quantizer import METHOD as FAKE
from ptqflow.modeling.weights import Weights
from ptqflow.numerics.packing import unpack_weight

NAME = "transformers-int"
METHOD = "compressed-tensors"


class IntegerEngine(TransformersEngine):
    """As `transformers`, and says which kernels multiply."""

    def settings(self) -> dict[str, Any]:
        """As of `transformers`, and the kernels of its linears."""
        kernels = {module.kernel.name for module in self.model.modules() if isinstance(module, Int8Linear)}
        kernels |= {module.weight.kernel for module in self.model.modules() if isinstance(module, Int4Linear)}
        return super().settings() | {"engine": NAME, "kernels": sorted(kernels)}

    def _weight_bytes(self) -> int:
        packed = (module.weight.nbytes for module in self.model.modules() if isinstance(module, Int4Linear))
        return super()._weight_bytes() + sum(packed)


def load(folder: Path, device: Device) -> IntegerEngine:
    """Load the checkpoint in `folder`: linears that it quantizes become integer ones, on the platform's device.

    A float or fake checkpoint is loaded as `transformers` does. Raises ConfigError for what has no kernel here.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    quantization = getattr(config, "quantization_config", None)
    if quantization is None or quantization.get("quant_method") != METHOD:
        if quantization is not None and quantization.get("quant_method") != FAKE:
            method = quantization.get("quant_method")
            raise ConfigError(f"{folder}: engine {NAME} reads {METHOD}, not {method}; use engine transformers or vllm")
        found = transformers_engine.load(folder, device)
        return IntegerEngine(found.model, found.tokenizer, device, folder)
    if quantization.get("kv_cache_scheme"):
        raise ConfigError(f"{folder}: engine {NAME} has no quantized KV cache; use form fake, or engine vllm")
    del config.quantization_config
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=device.compute_dtype)
    weights = Weights(folder)
    taken = set()
    for name, scheme in _schemes(model, QuantizationConfig.model_validate(quantization)):
        parent, _, child = name.rpartition(".")
        linear, used = _integer_linear(weights, name, scheme, device)
        setattr(model.get_submodule(parent), child, linear)
        taken |= used
    _load_rest(model, weights, taken, device, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return IntegerEngine(model.eval(), tokenizer, device, folder)


def _schemes(model: nn.Module, quantization: QuantizationConfig) -> Iterator[tuple[str, QuantizationScheme]]:
    """Names of the linears that are quantized, as the library matches them."""
    for scheme in quantization.config_groups.values():
        for name, module in match_named_modules(model, scheme.targets, quantization.ignore):
            if isinstance(module, nn.Linear):
                yield name, scheme


def _integer_linear(
    weights: Weights, name: str, scheme: QuantizationScheme, device: Device
) -> tuple[Int8Linear | Int4Linear, set[str]]:
    """The linear `name` from its tensors, and their names."""
    stored = [key for key in weights.file_of if key.rpartition(".")[0] == name]
    tensors = {key.rpartition(".")[2]: tensor for key, tensor in weights.load(stored).items()}
    where, args, inputs = device.torch_device, scheme.weights, scheme.input_activations
    bias = tensors["bias"].to(where) if "bias" in tensors else None
    by_row = "weight" in tensors and tensors["weight_scale"].numel() == len(tensors["weight"])
    static = tensors["input_scale"].to(where) if "input_scale" in tensors else None
    if inputs is not None and args.num_bits == inputs.num_bits == 8 and args.symmetric and by_row:
        if static is None or inputs.symmetric:
            scale = tensors["weight_scale"].to(where)
            return Int8Linear(tensors["weight"].to(where), scale, bias, inputs.symmetric, static), set(stored)
    elif inputs is None and args.num_bits == 4 and "weight_packed" in tensors:
        shape, scale = tensors["weight_shape"].tolist(), tensors["weight_scale"]
        integers, zero_point = unpack_weight(tensors["weight_packed"], shape, 4, scale.shape, tensors.get("weight_zero_point"))
        try:
            packed = Int4Weight(integers, scale, zero_point, device.compute_dtype, where)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
        return Int4Linear(packed, None if bias is None else bias.to(device.compute_dtype)), set(stored)
    kind = f"W{args.num_bits}A{inputs.num_bits if inputs else 16} {args.strategy}"
    raise ConfigError(
        f"{name}: engine {NAME} has no kernel for {kind} ({scheme.format}): it has W8A8 by row (static inputs: "
        "symmetric) and W4A16; use engine transformers or vllm, or form fake"
    )


def _load_rest(model: Any, weights: Weights, taken: set[str], device: Device, folder: Path) -> None:
    """All other tensors, in the compute dtype; every one has its place, and none is missing."""
    names = [name for name in weights.file_of if name not in taken]
    tensors = {name: tensor.to(device.torch_device, device.compute_dtype) for name, tensor in weights.load(names).items()}
    _, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if left or unexpected:
        raise ConfigError(f"{folder}: {', '.join([*left, *unexpected][:3])} have no place or no tensor; export it again")
    for module in model.modules():  # buffers of no file, as rotary frequencies
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer.to(device.torch_device), persistent=False)
