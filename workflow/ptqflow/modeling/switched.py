"""Blocks that are served under a switch of `numerics.switches`: one primitive of their arithmetic departs, by name."""

from typing import Any

from torch import Tensor, nn

from ptqflow.errors import ConfigError
from ptqflow.modeling.anatomy import ATTENTION, of_block
from ptqflow.modeling.online import CASTS
from ptqflow.numerics.switches import KRONECKER, add_rms_norm, reads_quantized_cache

_DECODING = "quantizes_for_decoding"  # attribute of an attention module under E11


def switch(block: nn.Module, name: str) -> None:
    """Let a quantizing block compute under switch `name` (E4, E7, E8, E11). Raises ConfigError where it has no such primitive."""
    if name in KRONECKER:
        for module in block.modules():
            if hasattr(module, "right_trans"):  # the fused kernel's: both sides
                setattr(module, CASTS, KRONECKER[name])
    elif name == "E8":
        found = of_block(block)
        if found.norm_offset:
            raise ConfigError(
                f"emulate E8 is of norms that multiply by w, and {found.model_type} multiplies by 1 + w; leave it out"
            )
        for norm in {site.norm for site in found.sites if site.norm}:
            block.get_submodule(norm).register_forward_hook(_rounded_norm, prepend=True)  # before a transform of its output
    else:
        assert name == "E11", name
        setattr(block.get_submodule(ATTENTION), _DECODING, True)


def read(attention: nn.Module, transform: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values as attention reads them, of all that `query` is to see; each [batch, its heads, tokens, head_dim]."""
    unquantized = getattr(attention, _DECODING, False) and not reads_quantized_cache(query.shape[2], key.shape[2])
    found: tuple[Tensor, Tensor] = (transform.unquantized if unquantized else transform)(key, value)
    return found


def _rounded_norm(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return add_rms_norm(inputs[0].float(), module.weight, module.variance_epsilon).to(output.dtype)
