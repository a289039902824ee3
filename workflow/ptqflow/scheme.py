"""Which tensors are put on an integer grid, and how: the terms of a recipe's `scheme`, which are those of compressed-tensors."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ptqflow.datamodel import Model
from ptqflow.numerics.convention import Convention, Grid


class QuantizationArgs(Model):
    """How one kind of tensor is put on an integer grid (the terms of compressed-tensors).

    `strategy`: weights by tensor, channel (one scale per output row) or group (of `group_size` input columns);
    activations by tensor or token; KV cache by token (one scale per token and head).
    """

    num_bits: Annotated[int, Field(ge=2, le=8)]
    type: Literal["int"] = "int"
    symmetric: bool = True
    strategy: Literal["tensor", "channel", "group", "token"]
    group_size: Annotated[int, Field(ge=1)] | None = None
    dynamic: bool = False

    @model_validator(mode="after")
    def _group(self) -> "QuantizationArgs":
        if (self.strategy == "group") != (self.group_size is not None):
            raise ValueError("group_size goes with strategy: group, and only with it; for another strategy give group_size: null")
        return self


class WeightArgs(QuantizationArgs):
    """Weights: static, by tensor, channel or group; `convention`: how scale and zero point follow from a range."""

    strategy: Literal["tensor", "channel", "group"]
    dynamic: Literal[False] = False
    convention: Convention = "flatquant"

    @property
    def grid(self) -> Grid:
        """The integer grid."""
        return Grid(self.num_bits, self.symmetric, self.convention)


class ActivationArgs(QuantizationArgs):
    """Inputs of linears: dynamic, one scale per token (and per input shard of o_proj and down_proj).

    Or static, one scale per tensor, from max|x| of the calibration set.
    """

    strategy: Literal["token", "tensor"] = "token"
    dynamic: bool = True

    @model_validator(mode="after")
    def _static(self) -> "ActivationArgs":
        if self.dynamic != (self.strategy == "token"):
            raise ValueError("dynamic: false goes with strategy: tensor, and only with it")
        if not (self.dynamic or self.symmetric):
            raise ValueError("static inputs have a range of max|x| on both sides; use symmetric: true")
        return self


class CacheArgs(QuantizationArgs):
    """Keys and values; asymmetric by default. `num_bits` of both, unless values have `value_bits`.

    `dynamic`: true, a range per token and head for both; "values", keys have one range per channel, from calibration; false,
    values too. `keys`: quantized after RoPE, or before it; then `key_bias: separate` keeps the bias of k_proj out of the range.
    RoPE turns a key by its position, so ranges after it are of the positions seen: `positions` spreads the calibration sequences
    over as many (or all that the model has, if fewer); null: each begins at the first.
    """

    symmetric: bool = False
    strategy: Literal["token"] = "token"
    value_bits: Annotated[int, Field(ge=2, le=8)] | None = None
    dynamic: Literal[True, False, "values"] = True  # type: ignore[assignment]
    keys: Literal["post_rope", "pre_rope"] = "post_rope"
    key_bias: Literal["keep", "separate"] = "keep"
    positions: Annotated[int, Field(ge=1)] | None = None

    @property
    def static(self) -> tuple[Literal["k", "v"], ...]:
        """Which of keys `k` and values `v` have ranges from calibration."""
        return () if self.dynamic is True else ("k",) if self.dynamic == "values" else ("k", "v")

    @property
    def bits(self) -> dict[Literal["k", "v"], int]:
        """Of keys `k` and of values `v`."""
        return {"k": self.num_bits, "v": self.value_bits or self.num_bits}

    @model_validator(mode="after")
    def _bias(self) -> "CacheArgs":
        if self.key_bias == "separate" and self.keys != "pre_rope":
            raise ValueError("key_bias separate needs keys pre_rope: after RoPE the bias depends on the position")
        return self

    @model_validator(mode="after")
    def _positions(self) -> "CacheArgs":
        if self.positions is not None and (self.dynamic is True or self.keys != "post_rope"):
            raise ValueError("positions are of static keys after RoPE; use dynamic: values and keys: post_rope, or remove it")
        return self


class Scheme(Model):
    """Which tensors are quantized, and how. None keeps them as they are."""

    weights: WeightArgs | None = None
    input_activations: ActivationArgs | None = None
    kv_cache: CacheArgs | None = None
