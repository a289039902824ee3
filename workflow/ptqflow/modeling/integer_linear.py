"""Linears that compute with the integers of a checkpoint, as engines' kernels do: no dequantized weight is ever held.

The contract, the same on every device: the product of integers is exact; a result differs from its definition by rounding alone.

    W8A8, W4A8, W4A4    y = s_x Σ_g s_g (q_x - z_x)[g] (q - z)[g]ᵀ + b      g: a group of columns, or all of them
    W8A16, W4A16        y = x ((q - z) s)ᵀ + b

q_x, s_x and z_x of each token are what fake quantizers find; s_x of static inputs is the checkpoint's. Where the checkpoint holds
a transform of FlatQuant, x is transformed first, and the range of each token is clipped.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ptqflow.devices.case import Case
from ptqflow.devices.products import Kernel, around, faster, fused, int8_kernel
from ptqflow.devices.weight_only import WeightOnly
from ptqflow.modeling.input_scheme import InputQuantizer, InputScheme, quantizing
from ptqflow.modeling.scopes import scope

_TRIED = (512, 1000)  # rows and columns of a trial


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
    out, columns = weight.shape
    case = Case(
        weight_bits=bits,
        input_bits=scheme.grid.num_bits,
        out=out,
        columns=columns,
        groups=weight_scale.shape[1],
        symmetric=scheme.grid.symmetric,
        static=scheme.scale is not None,
        shifted=scheme.shifted,
        clipped=scheme.clip != 1,
        sides=scheme.sides,
        dtype=dtype,
    )
    operators = fused(weight.device, case)
    alike = (q for q in known[-8:] if q.operators is operators and q.scheme.equals(scheme))
    if (inputs := next(alike, None)) is None:
        kernel = quantizing(scheme, columns, dtype, weight.device) if operators is None else None
        known.append(inputs := InputQuantizer(scheme, operators, kernel))
    if operators is None:
        kernels = around(weight.device.type)
        scaling = _scaling(kernels, dtype, weight.device) if kernels is not None else None
        return IntegerLinear(weight, weight_scale, bias, inputs, scaling)
    return FusedLinear(weight, weight_scale, bias, inputs)


def scaled(
    total: Tensor, sums: Tensor | None, zero: Tensor, by_row: Tensor, by_column: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """(total - zero sums) by_column by_row + bias in float32, then in `dtype`: [rows, out].

    `total` int32 [rows, out]; `sums` int32 (None: nothing is taken off), `by_column` and `bias` [out]; `zero` and `by_row`
    [rows, 1] or [1].
    """
    return _scaled(_shifted(total, sums, zero) * by_column, by_row, bias, dtype)


def _shifted(total: Tensor, sums: Tensor | None, zero: Tensor) -> Tensor:
    return total if sums is None else total - zero.to(torch.int32) * sums


def _scaled(result: Tensor, by_row: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    result = result * by_row
    return (result if bias is None else result + bias).to(dtype)


_STEPS = Kernel("sums scaled step by step", scaled)


@cache
def _scaling(kernels: Any, dtype: torch.dtype, device: torch.device) -> Kernel:
    """The fastest that gives what `scaled` gives, bit for bit."""
    generator, (rows, out) = torch.Generator().manual_seed(0), _TRIED
    total = torch.randint(-(2**28), 2**28, _TRIED, generator=generator, dtype=torch.int32)
    zero = torch.randint(-128, 128, (rows, 1), generator=generator).float()
    floats = (torch.rand(shape, generator=generator) for shape in ((rows, 1), (out,), (out,)))
    given: list[Any] = [part.to(device) for part in (total, total[0] // 2**14, zero, *floats)]
    return faster(Kernel(f"sums scaled by {kernels.NAME}", kernels.scaled), _STEPS, (*given, dtype))


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

    def __init__(
        self,
        weight: Tensor,
        weight_scale: Tensor,
        bias: Tensor | None,
        inputs: InputQuantizer,
        scaling: Kernel | None = None,
    ) -> None:
        """From integers less their zero points, int8 [out, in], scales [out, groups] and the bias [out]; all where they run.

        `scaling`: a kernel that scales the sums where there is one group; None: step by step.
        """
        super().__init__()
        out, groups = weight_scale.shape
        self.inputs, self.in_features, self.out_features = inputs, weight.shape[1], out
        grouped = weight.view(out, groups, -1).transpose(0, 1).contiguous()
        self.register_buffer("weight", grouped, persistent=False)  # [groups, out, in / groups]
        self.register_buffer("weight_scale", weight_scale.float().T.contiguous(), persistent=False)
        self.register_buffer("sums", grouped.sum(2, dtype=torch.int32), persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.kernel, self.scaling = int8_kernel(weight.device), scaling if groups == 1 else None

    @property
    def kernels(self) -> set[str]:
        """Names of what multiplies, for the record; of what is around it, where there is a choice."""
        return {kernel.name for kernel in (self.kernel, self.inputs.kernel, self.scaling) if kernel is not None}

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] of x [..., in], in the dtype of x; scaled in float32."""
        inputs, shape = self.inputs(x), (*x.shape[:-1], self.out_features)
        sums: Any = self.sums if self.inputs.scheme.shifted else [None] * len(self.weight)
        if len(self.weight) == 1:
            with scope("product"):
                total = self.kernel.run(inputs.integers, self.weight[0])
            with scope("scale"):
                run = (self.scaling or _STEPS).run
                given = (inputs.zero_point, inputs.scale, self.weight_scale[0], self.bias, x.dtype)
                return run(total, sums[0], *given).view(shape)
        parts = inputs.integers.unflatten(1, (len(self.weight), -1)).unbind(1)
        result = torch.zeros((), device=x.device)
        for part, weight, scale, less in zip(parts, self.weight, self.weight_scale, sums, strict=True):
            with scope("product"):
                total = self.kernel.run(part.contiguous(), weight)
            with scope("scale"):
                result = result + _shifted(total, less, inputs.zero_point) * scale
        with scope("scale"):
            return _scaled(result, inputs.scale, self.bias, x.dtype).view(shape)


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
