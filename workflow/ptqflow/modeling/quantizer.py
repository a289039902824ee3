"""Our entry in transformers' quantizer registry, so that `from_pretrained` runs fake-quantized checkpoints.

A checkpoint says `"quantization_config": {"quant_method": "ptqflow", "version": 1, "recipe": {...}}` and
`"attn_implementation": "ptqflow"`. The second key makes transformers refuse the checkpoint where ptqflow was not imported; an
unknown quant_method alone only warns.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from ptqflow.errors import ConfigError, explain
from ptqflow.modeling.attention_name import ATTENTION_NAME
from ptqflow.recipes import Recipe

METHOD = "ptqflow"
VERSION = 1


def quantization_config(recipe: Recipe) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint that quantizes activations or its cache while it runs."""
    return {"quant_method": METHOD, "version": VERSION, "recipe": recipe.dump()}


def recipe_of(config: Mapping[str, Any]) -> Recipe:
    """The recipe of a checkpoint's `quantization_config`. Raises ConfigError for another version, unknown keys, wrong recipe."""
    unknown = sorted(config.keys() - {"quant_method", "version", "recipe"})
    if config.get("version") != VERSION or unknown:
        raise ConfigError(
            f"quantization_config: version {config.get('version')}, unknown keys {unknown}; this ptqflow reads version "
            f"{VERSION}; export the checkpoint again"
        )
    try:
        return Recipe.model_validate(config.get("recipe"))
    except ValidationError as error:
        raise ConfigError(f"quantization_config.recipe: {explain(error, Recipe)}; export the checkpoint again") from None


def register(auto: ModuleType) -> None:
    """Register with `transformers.quantizers.auto`, once. Called by the post-import hook in `ptqflow/__init__.py`.

    The classes are made here because their bases exist only now, while transformers itself is still being imported.
    """
    if METHOD in auto.AUTO_QUANTIZER_MAPPING:
        return

    class PtqflowConfig(auto.QuantizationConfigMixin):  # type: ignore[name-defined]
        """The recipe of a checkpoint."""

        def __init__(self, recipe: dict[str, Any], version: int = 0, quant_method: str = METHOD, **unknown: Any) -> None:
            recipe_of({"version": version, "recipe": recipe, **unknown})
            self.quant_method, self.version, self.recipe = quant_method, version, recipe

    class PtqflowQuantizer(auto.HfQuantizer):  # type: ignore[name-defined]
        """Replaces block linears and quantizes the cache, before the weights are loaded."""

        requires_calibration = True

        def validate_environment(self, *args: Any, **kwargs: Any) -> None:
            """Make our attention function known before transformers looks for it."""
            from ptqflow.modeling.fake_quant import register_attention

            register_attention()

        def update_attn_implementation(self, config: Any) -> Any:
            """Our attention function calls sdpa; another one would read unquantized keys and values."""
            if config._attn_implementation not in (None, "sdpa", ATTENTION_NAME):
                raise ConfigError(
                    f"attn_implementation {config._attn_implementation!r} cannot quantize the cache; leave it unset"
                )
            config._attn_implementation = ATTENTION_NAME
            return config

        def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
            from ptqflow.modeling.fake_quant import quantize_block

            if model.config._attn_implementation != ATTENTION_NAME:
                raise ConfigError("this transformers does not let a quantizer choose the attention; use transformers 5.23")
            recipe = Recipe.model_validate(self.quantization_config.recipe)
            for layer, block in enumerate(model.base_model.layers):
                quantize_block(block, recipe, layer)
            return model

        def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
            from ptqflow.modeling import online

            for name, parameter in online.parameters(model):
                if not getattr(parameter, "_is_hf_initialized", False):
                    raise ConfigError(f"the checkpoint holds no {name}; export it again")
            return model

        def is_serializable(self, **kwargs: Any) -> bool:
            """No: checkpoints are written by `ptqflow export` alone."""
            return False

        @property
        def is_trainable(self) -> bool:
            """No: rounding has no useful gradient."""
            return False

    auto.register_quantization_config(METHOD)(PtqflowConfig)
    auto.register_quantizer(METHOD)(PtqflowQuantizer)
