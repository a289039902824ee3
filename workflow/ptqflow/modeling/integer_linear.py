"""Linears that compute with the integers of a checkpoint, as engines' kernels do: no dequantized weight is ever held.

The contract, the same on every device: the product of integers is exact; a result differs from its definition by rounding alone.

    W8A8, W4A8, W4A4    y = s_x Σ_g s_g (q_x - z_x)[g] (q - z)[g]ᵀ + b      g: a group of columns, or all of them
    W8A16, W4A16        y = x ((q - z) s)ᵀ + b

q_x, s_x and z_x of each token are what fake quantizers find; s_x of static inputs is the checkpoint's. Where the checkpoint holds
a transform of FlatQuant, x is transformed first, and the range of each token is clipped.
"""

import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ptqflow.devices.case import Case
from ptqflow.devices.products import fused, int8_kernel
from ptqflow.devices.weight_only import WeightOnly
from ptqflow.modeling.scopes import scope
from ptqflow.numerics.convention import Grid
from ptqflow.numerics.grid import dynamic_scale_and_zero_point, quantize
from ptqflow.transforms import kronecker


class Quantized(NamedTuple):
    """Inputs on their grid: integers int8 [rows, in]; scale and zero point float32, broadcasting; x = (q - z) scale."""

    integers: Tensor
    scale: Tensor
    zero_point: Tensor


@dataclass(frozen=True, eq=False)
class InputScheme:
    """What becomes of an input [rows, in]: x̂ = vec(Lᵀ X R) for X = x as a matrix, then the grid.

    `scale` and `zero_point` float32 [1]: static, on the signed grid; None: of each token, from its range times `clip`.
    """

    grid: Grid
    scale: Tensor | None = None
    zero_point: Tensor | None = None
    clip: float = 1.0
    left: Tensor | None = None
    right: Tensor | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not self.grid.symmetric:
            raise ValueError("static inputs are on the signed grid; give their zero_point, or no scale")

    @property
    def shifted(self) -> bool:
        """Whether zero points are to be taken off."""
        return not self.grid.symmetric or self.zero_point is not None

    def equals(self, other: "InputScheme") -> bool:
        """Whether both say the same of every input."""
        pairs = [(getattr(self, part), getattr(other, part)) for part in ("scale", "zero_point", "left", "right")]
        alike = all(torch.equal(a, b) if a is not None and b is not None else a is b for a, b in pairs)
        return alike and (self.grid, self.clip) == (other.grid, other.clip)

    def transformed(self, rows: Tensor) -> Tensor:
        """Rows as they are quantized, in their own dtype."""
        if self.left is None or self.right is None:
            return rows
        return kronecker.apply(rows, self.left[None].to(rows.dtype), self.right[None].to(rows.dtype))

    def quantized(self, rows: Tensor) -> Quantized:
        """Transformed rows on their grid, whose integers are shifted into int8 where it is unsigned."""
        rows, bits, symmetric = rows.float(), self.grid.num_bits, self.grid.symmetric
        if self.scale is None:
            low, high = rows.amin(-1, keepdim=True).clamp(max=0), rows.amax(-1, keepdim=True).clamp(min=0)
            scale, zero_point = dynamic_scale_and_zero_point(low * self.clip, high * self.clip, bits, symmetric)
        else:
            scale, zero_point = self.scale, torch.zeros_like(self.scale) if self.zero_point is None else self.zero_point
        shift = 0 if symmetric else 2 ** (bits - 1)
        return Quantized((quantize(rows, scale, zero_point, self.grid) - shift).to(torch.int8), scale, zero_point - shift)


class InputQuantizer:
    """An input's scheme, applied once where linears read the same tensor one after the other (q, k and v; gate and up).

    `operators`: of a device that quantizes with its own.
    """

    def __init__(self, scheme: InputScheme, operators: Any = None) -> None:
        self.scheme, self.operators = scheme, operators
        self._last: tuple[weakref.ref[Tensor], Quantized] | None = None

    def __call__(self, x: Tensor) -> Quantized:
        """The input x [..., in] on its grid, as rows."""
        if self._last is not None and self._last[0]() is x:
            return self._last[1]
        rows = x.flatten(0, -2)
        if self.operators is not None:
            with scope("quantize"):
                found = self._by_operators(rows)
        else:
            if self.scheme.left is not None:
                with scope("transform"):
                    rows = self.scheme.transformed(rows)
            with scope("quantize"):
                found = self.scheme.quantized(rows)
        self._last = (weakref.ref(x, self._forget), found)
        return found

    def _by_operators(self, rows: Tensor) -> Quantized:
        scheme, zero = self.scheme, rows.new_zeros(1, dtype=torch.float32)
        if scheme.left is not None and scheme.right is not None:
            integers, scale = self.operators.transformed(rows, scheme.left, scheme.right, scheme.clip)
            return Quantized(integers, scale, zero)
        if scheme.scale is None:
            integers, scale = self.operators.quantized(rows, scheme.grid.num_bits)
            return Quantized(integers, scale, zero)
        return Quantized(self.operators.quantized_static(rows, scheme.scale), scheme.scale.expand(len(rows)), zero)

    def _forget(self, gone: "weakref.ref[Tensor]") -> None:
        if self._last is not None and self._last[0] is gone:  # held no longer than the tensor itself
            self._last = None


def integer_linear(
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    scheme: InputScheme,
    bits: int,
    dtype: torch.dtype,
    known: list[InputQuantizer],
) -> "IntegerLinear | FusedLinear":
    """The linear of a weight of `bits` (as `IntegerLinear` takes it) for inputs of `dtype`, by what its device has.

    `known`: quantizers of linears loaded before, whose next one shares an input with it that says the same.
    """
    (out, columns), sides = weight.shape, None
    if scheme.left is not None and scheme.right is not None:
        sides = (len(scheme.left), len(scheme.right))
    static, clipped = scheme.scale is not None, scheme.clip != 1
    case = Case(
        bits,
        scheme.grid.num_bits,
        out,
        columns,
        weight_scale.shape[1],
        *(scheme.grid.symmetric, static),
        scheme.shifted,
        clipped,
        sides,
        dtype,
    )
    operators = fused(weight.device, case)
    alike = (q for q in known[-8:] if q.operators is operators and q.scheme.equals(scheme))
    if (inputs := next(alike, None)) is None:
        known.append(inputs := InputQuantizer(scheme, operators))
    if operators is None:
        return IntegerLinear(weight, weight_scale, bias, inputs)
    return FusedLinear(weight, weight_scale, bias, inputs)


class FusedLinear(nn.Module):
    """Integers times integers by operators of the device that scale the result themselves; one scale per row."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, inputs: InputQuantizer) -> None:
        """As `IntegerLinear`; `inputs` has operators."""
        super().__init__()
        self.inputs, self.out_features, self.in_features = inputs, *weight.shape
        self.register_buffer("weight", inputs.operators.held(weight, inputs.scheme.grid.num_bits), persistent=False)
        self.register_buffer("weight_scale", weight_scale.float().flatten(), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.float(), persistent=False)

    @property
    def kernels(self) -> set[str]:
        """Names of what multiplies, for the record."""
        return {self.inputs.operators.name}

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] of x [..., in], in the dtype of x."""
        inputs = self.inputs(x)
        with scope("product"):
            multiply = self.inputs.operators.multiply
            result: Tensor = multiply(inputs.integers, self.weight, self.weight_scale, inputs.scale, self.bias, x.dtype)
            return result.unflatten(0, x.shape[:-1])


class IntegerLinear(nn.Module):
    """Integers times integers. Weights of 8 bits are symmetric; of fewer, symmetric or not. They are held as bytes."""

    weight: Tensor
    weight_scale: Tensor
    sums: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, inputs: InputQuantizer) -> None:
        """From integers less their zero points, int8 [out, in], scales [out, groups] and the bias [out]; all where they run."""
        super().__init__()
        out, groups = weight_scale.shape
        self.inputs, self.in_features, self.out_features = inputs, weight.shape[1], out
        grouped = weight.view(out, groups, -1).transpose(0, 1).contiguous()
        self.register_buffer("weight", grouped, persistent=False)  # [groups, out, in / groups]
        self.register_buffer("weight_scale", weight_scale.float().T.contiguous(), persistent=False)
        self.register_buffer("sums", grouped.sum(2, dtype=torch.int32), persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.kernel = int8_kernel(weight.device)

    @property
    def kernels(self) -> set[str]:
        """Names of what multiplies, for the record."""
        return {self.kernel.name}

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] of x [..., in], in the dtype of x; scaled in float32."""
        inputs = self.inputs(x)
        parts = inputs.integers.unflatten(1, (len(self.weight), -1)).unbind(1)
        result: Tensor | float = 0.0
        for part, weight, scale, sums in zip(parts, self.weight, self.weight_scale, self.sums, strict=True):
            with scope("product"):
                total = self.kernel.product(part.contiguous(), weight)
            with scope("scale"):
                if self.inputs.scheme.shifted:
                    total = total - inputs.zero_point.to(torch.int32) * sums
                result = result + total * scale
        with scope("scale"):
            scaled = result * inputs.scale
            return (scaled if self.bias is None else scaled + self.bias).to(x.dtype).unflatten(0, x.shape[:-1])


class WeightOnlyLinear(nn.Module):
    """Integers of weights alone, as the device's kernel for them holds and multiplies them."""

    bias: Tensor | None

    def __init__(self, weight: WeightOnly, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("bias", bias, persistent=False)

    @property
    def kernels(self) -> set[str]:
        """Names of what multiplies, for the record."""
        return {self.weight.kernel}

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] of x [..., in], in the dtype of x."""
        with scope("product"):
            result = self.weight.multiply(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
            return result if self.bias is None else result + self.bias
