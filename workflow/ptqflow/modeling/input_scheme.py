"""Inputs of integer linears on their grid: by definition, by operators of the device, or by a kernel of ours for it.

A kernel is believed only after it was asked on the device itself: where it gives what the definition gives, bit for bit. Of those
the fastest is taken, and goes on record.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ptqflow.devices.products import Kernel, around, faster
from ptqflow.modeling.once import Once
from ptqflow.modeling.scopes import scope
from ptqflow.numerics.convention import Grid
from ptqflow.numerics.grid import dynamic_scale_and_zero_point, quantize
from ptqflow.transforms import kronecker

_TRIED, _TRIED_CLIP = 512, 0.9  # rows and clip of a trial


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

    @property
    def sides(self) -> tuple[int, int] | None:
        """Widths of L and R, where the input is transformed."""
        return None if self.left is None or self.right is None else (len(self.left), len(self.right))

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
            low, high = rows.amin(-1, keepdim=True) * self.clip, rows.amax(-1, keepdim=True) * self.clip
            scale, zero_point = dynamic_scale_and_zero_point(low, high, bits, symmetric)
        else:
            scale, zero_point = self.scale, torch.zeros_like(self.scale) if self.zero_point is None else self.zero_point
        shift = 0 if symmetric else 2 ** (bits - 1)
        return Quantized((quantize(rows, scale, zero_point, self.grid) - shift).to(torch.int8), scale, zero_point - shift)


def by_steps(rows: Tensor, scheme: InputScheme) -> Quantized:
    """Rows [rows, in] transformed and on their grid, as it is defined."""
    if scheme.left is not None:
        with scope("transform"):
            rows = scheme.transformed(rows)
    with scope("quantize"):
        return scheme.quantized(rows)


_STEPS = Kernel("inputs quantized step by step", by_steps)


def quantizing(scheme: InputScheme, columns: int, dtype: torch.dtype, device: torch.device) -> Kernel | None:
    """The fastest that gives what `by_steps` gives of inputs [rows, columns] in `dtype`; None: the device has no other."""
    kernels = around(device.type)
    if kernels is None:
        return None
    return _STEPS if scheme.scale is not None else _quantizing(kernels, scheme.grid, scheme.sides, columns, dtype, device)


@cache
def _quantizing(
    kernels: Any, grid: Grid, sides: tuple[int, int] | None, columns: int, dtype: torch.dtype, device: torch.device
) -> Kernel:
    def in_one(rows: Tensor, scheme: InputScheme) -> Quantized:
        with scope("quantize"):
            return Quantized(*kernels.quantized(rows, *scheme.grid[:2], scheme.clip, scheme.left, scheme.right))

    # Small integers through a transform of ones, whose sums are exact in any order; else numbers, and a token of zeros.
    generator = torch.Generator().manual_seed(0)
    left, right = (None, None) if sides is None else (_of_ones(side).to(device) for side in sides)
    trial = InputScheme(grid, clip=_TRIED_CLIP, left=left, right=right)
    rows = torch.randn(_TRIED, columns, generator=generator)
    rows = (rows if sides is None else (3 * rows).round().clamp(-8, 8)).to(device, dtype)
    rows[0], rows[1] = 0, rows[1].abs() + 1
    return faster(Kernel(f"inputs quantized by {kernels.NAME}", in_one), _STEPS, (rows, trial))


def _of_ones(side: int) -> Tensor:
    return torch.eye(side) + torch.eye(side).roll(1, 0) - torch.eye(side).roll(3, 1)


class InputQuantizer:
    """An input's scheme, applied once where linears read the same tensor one after the other (q, k and v; gate and up).

    `operators`: of a device that quantizes with its own; `kernel`: as `quantizing` finds it.
    """

    def __init__(self, scheme: InputScheme, operators: Any = None, kernel: Kernel | None = None) -> None:
        self.scheme, self.operators, self.kernel = scheme, operators, kernel
        self._once = Once[Quantized]()

    def __call__(self, x: Tensor) -> Quantized:
        """The input x [..., in] on its grid, as rows."""
        return self._once(x, self._quantized)

    def _quantized(self, x: Tensor) -> Quantized:
        rows = x.flatten(0, -2)
        if self.operators is None:
            return (self.kernel or _STEPS).run(rows, self.scheme)
        with scope("quantize"):
            return self._by_operators(rows)

    def _by_operators(self, rows: Tensor) -> Quantized:
        scheme, zero = self.scheme, rows.new_zeros(1, dtype=torch.float32)
        if scheme.left is not None and scheme.right is not None:
            integers, scale = self.operators.transformed(rows, scheme.left, scheme.right, scheme.clip)
            return Quantized(integers, scale, zero)
        if scheme.scale is None:
            integers, scale = self.operators.quantized(rows, scheme.grid.num_bits)
            return Quantized(integers, scale, zero)
        return Quantized(self.operators.quantized_static(rows, scheme.scale), scheme.scale.repeat(len(rows)), zero)
