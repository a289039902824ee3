"""The fake-quantized checkpoint: dequantized weights in the model's dtype, transforms folded in, everything else bit for bit.

Stock transformers loads it. Weight-only recipes need nothing more. Where activations or the cache are quantized, too, the config
says so in a way that transformers refuses without ptqflow (`modeling.quantizer`): it cannot run unquantized by accident.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ptqflow.checkpoints.layout import WEIGHT, BaseLayout, GridWeight, QuantizedLinear, TensorSpec
from ptqflow.modeling import online
from ptqflow.modeling.attention_name import ATTENTION_NAME
from ptqflow.modeling.qparams import deployed
from ptqflow.modeling.quantizer import quantization_config
from ptqflow.modeling.weights import Weights


class Layout(BaseLayout):
    """Every tensor under its own name, in its own dtype; beside a block's first norm, what is left to do at inference."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        neighbour = f"{self.architecture.sites[0].norm}{WEIGHT}"  # the tensor that a block's online parameters are stored with
        self._online: dict[str, list[str]] = {}  # neighbour -> names
        for name in online.names(self.qparams):
            prefix = ".".join(name.split(".")[:3]) + "."
            self._online.setdefault(prefix + neighbour, []).append(name)
        assert all(prefix in self.source.file_of for prefix in self._online), f"{neighbour} in every block"

    def linear_spec(self, linear: QuantizedLinear) -> dict[str, TensorSpec]:
        """The weight in its own dtype."""
        return {"weight": TensorSpec(linear.dtype, linear.shape)}

    def encode(self, linear: QuantizedLinear, weight: GridWeight) -> dict[str, Tensor]:
        """The dequantized weight, rounded to its own dtype."""
        return {"weight": weight.dequantized().to(linear.dtype)}

    def decode(self, linear: QuantizedLinear, tensors: Mapping[str, Tensor]) -> GridWeight:
        """There are no integers in this form: use `read_weight`."""
        raise NotImplementedError("form fake holds no integers")

    def read_weight(self, checkpoint: Weights, linear: QuantizedLinear) -> Tensor:
        """A linear's weight [out, in] in float32."""
        return checkpoint[linear.prefix + WEIGHT].float()

    def float_spec(self, name: str) -> dict[str, TensorSpec]:
        """The tensor itself, and the online parameters that go with it."""
        extra = {key: self.qparams[key] for key in self._online.get(name, [])}
        return super().float_spec(name) | {key: TensorSpec(t.dtype, tuple(t.shape)) for key, t in extra.items()}

    def float_tensors(self, name: str) -> dict[str, Tensor]:
        """These tensors."""
        tensors = {name: deployed(name, self.source[name], self.qparams, self.architecture)}
        return tensors | {key: self.qparams[key] for key in self._online.get(name, [])}

    def documents(self) -> dict[str, dict[str, Any]]:
        """config.json; where more than weights is quantized, it says so."""
        config = dict(self.config)
        if not self.recipe.is_weight_only():
            config |= {"quantization_config": quantization_config(self.recipe), "attn_implementation": ATTENTION_NAME}
        return {"config.json": config}
