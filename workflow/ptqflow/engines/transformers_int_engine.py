"""transformers with integer kernels: real checkpoints (`compressed-tensors`, `modelslim`) computed with the integers they hold.

Everything but the linears and an 8-bit cache is the engine `transformers`: the float model, the fake and the real form are timed
and scored in one engine and mode. What has no kernel is refused by its name.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache, GenerationConfig

from ptqflow.devices.device import Device
from ptqflow.engines import transformers_engine
from ptqflow.engines.compressed_tensors_linears import METHOD, CompressedTensors
from ptqflow.engines.modelslim_linears import DESCRIPTION, ModelSlim
from ptqflow.engines.protocol import Memory
from ptqflow.engines.transformers_engine import TransformersEngine
from ptqflow.errors import ConfigError
from ptqflow.modeling.anatomy import ATTENTION, block_prefix
from ptqflow.modeling.attention_name import ATTENTION_NAME
from ptqflow.modeling.fake_quant import register_attention
from ptqflow.modeling.integer_cache import IntegerCache, IntegerCacheReader, attach
from ptqflow.modeling.integer_linear import FusedLinear, IntegerLinear, WeightOnlyLinear
from ptqflow.modeling.quantizer import METHOD as FAKE
from ptqflow.modeling.weights import Weights

NAME = "transformers-int"


class IntegerEngine(TransformersEngine):
    """As `transformers`, and says which kernels multiply. `readers`: of an integer cache, by layer; none where it is float."""

    def __init__(
        self, model: Any, tokenizer: Any, device: Device, folder: Path, readers: Sequence[IntegerCacheReader] = ()
    ) -> None:
        super().__init__(model, tokenizer, device, folder)
        self.readers = readers

    def settings(self) -> dict[str, Any]:
        """As of `transformers`, and the kernels of its linears."""
        linears = (
            module for module in self.model.modules() if isinstance(module, (IntegerLinear, FusedLinear, WeightOnlyLinear))
        )
        kernels = {kernel for linear in linears for kernel in linear.kernels}
        cache = {"cache": "int8"} if self.readers else {}
        return super().settings() | {"engine": NAME, "kernels": sorted(kernels)} | cache

    def memory(self, cache_bytes: int) -> Memory:
        """As of `transformers`; a cached number takes a byte where the cache is integers."""
        share = 1 / self.model.dtype.itemsize if self.readers else 1.0
        integers = any(isinstance(module, (IntegerLinear, FusedLinear)) for module in self.model.modules())
        return replace(super().memory(int(cache_bytes * share)), multiplies_int8=integers, cache_share=share)

    def _weight_bytes(self) -> int:
        held = (module.weight.nbytes for module in self.model.modules() if isinstance(module, WeightOnlyLinear))
        return super()._weight_bytes() + sum(held)

    def _cache(self) -> DynamicCache:
        return IntegerCache(self.model.config, self.readers) if self.readers else super()._cache()


def load(folder: Path, device: Device) -> IntegerEngine:
    """Load the checkpoint in `folder`: linears that it quantizes become integer ones, on the platform's device.

    A float or fake checkpoint is loaded as `transformers` does. Raises ConfigError for what has no kernel here.
    """
    form = _form(folder)
    if form is None:
        found = transformers_engine.load(folder, device)
        return IntegerEngine(found.model, found.tokenizer, device, folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    scales = form.cache()
    register_attention()
    attention = {"attn_implementation": ATTENTION_NAME} if scales else {}
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=device.compute_dtype, **attention)
    if (folder / "generation_config.json").is_file():  # it may name more stop tokens than config.json
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    taken = form.cache_tensors() if scales else set()
    for name, linear, used in list(form.linears(model, device)):
        model.set_submodule(name, linear)
        taken |= used
    _load_rest(model, form.weights, taken, device, folder)
    readers = []
    for layer, block in enumerate(model.base_model.layers if scales else ()):
        name = f"{block_prefix(layer)}{ATTENTION}"
        if name not in scales:
            raise ConfigError(f"{folder}: the cache is 8-bit integers, but {name} has no scale of it; export it again")
        readers.append(attach(block.get_submodule(ATTENTION), scales[name], device.torch_device, device.compute_dtype))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return IntegerEngine(model.eval(), tokenizer, device, folder, readers)


def _form(folder: Path) -> CompressedTensors | ModelSlim | None:
    """The real form in `folder`; None for a float or fake checkpoint, which transformers loads."""
    if (folder / DESCRIPTION).is_file():
        return ModelSlim(folder)
    quantization = getattr(AutoConfig.from_pretrained(folder, local_files_only=True), "quantization_config", None)
    method = None if quantization is None else quantization.get("quant_method")
    if quantization is None or method == FAKE:
        return None
    if method != METHOD:
        raise ConfigError(f"{folder}: engine {NAME} reads {METHOD} and modelslim, not {method}; use engine transformers or vllm")
    return CompressedTensors(folder, quantization)


def _load_rest(model: Any, weights: Weights, taken: set[str], device: Device, folder: Path) -> None:
    """All other tensors, in the compute dtype; every one has its place, and none is missing."""
    names = [name for name in weights.file_of if name not in taken]
    tensors = {name: tensor.to(device.torch_device, device.compute_dtype) for name, tensor in weights.load(names).items()}
    _, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    if isinstance(model.get_output_embeddings(), nn.Linear):  # a head of integers is its own, whatever the configuration says
        model.tie_weights()
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if left or unexpected:
        raise ConfigError(f"{folder}: {', '.join([*left, *unexpected][:3])} have no place or no tensor; export it again")
    for module in model.modules():  # buffers of no file, as rotary frequencies
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer.to(device.torch_device), persistent=False)
