"""Weights alone as integers, by device: how each holds and multiplies them. Inputs stay as they are.

4 bits: where the device's packed kernel wins, it multiplies; everything else is unpacked for the product, a part at a time, and
multiplied in floats. Which of both a product is follows from its shape and the kernels that the device has.
"""

from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from ptqflow.devices import npu
from ptqflow.devices.products import Kernel, around, faster

# Rows from which unpacking is faster than torch's packed kernel on a GPU, by one kernel and by steps (an H200: docs/devices.md).
TINYGEMM_ROWS, TINYGEMM_ROWS_BY_STEPS = 32, 256
_TINYGEMM_GROUPS = (256, 128, 64, 32)  # columns that share a scale in that kernel
_AT_ONCE = 2**20  # numbers of a weight that are unpacked at once
_TRIED = 1024, 4096  # a weight, to see which way is faster


class WeightOnly(Protocol):
    """A weight on its device; `kernel` is the name of what multiplies, for the record."""

    @property
    def kernel(self) -> str:
        """Its name, for the record."""

    @property
    def nbytes(self) -> int:
        """Bytes of all that is held."""

    def multiply(self, x: Tensor) -> Tensor:
        """x [rows, in] Wᵀ, in the dtype of x."""


def int4_weight(integers: Tensor, scale: Tensor, zero_point: Tensor, dtype: torch.dtype, device: torch.device) -> WeightOnly:
    """From integers uint8 [out, in] (0 to 15), scale float32 and zero point uint8 [out, groups]: W = (q - z) scale.

    The device's packed kernel where it takes the shape, else `Int4Weight`, which takes all.
    """
    (out, columns), groups = integers.shape, scale.shape[1]
    if device.type in npu.WEIGHT_ONLY and npu.WeightOnly.takes(out, columns, groups, 4):
        zero = None if (zero_point == 8).all() else zero_point.short() - 8
        return npu.WeightOnly((integers.short() - 8).to(torch.int8), scale, zero, 4, dtype, device)
    if device.type == "cuda" and TinygemmWeight.takes(out, columns, groups, dtype) and _packs(device):
        return TinygemmWeight(integers, scale, zero_point, dtype, device)
    return Int4Weight(integers, scale, zero_point, device)


def int8_weight(integers: Tensor, scale: Tensor, dtype: torch.dtype, device: torch.device) -> WeightOnly:
    """From integers int8 [out, in] and scale float32 [out]: W = q scale."""
    if device.type in npu.WEIGHT_ONLY and npu.WeightOnly.takes(len(integers), integers.shape[1], groups=1, bits=8):
        return npu.WeightOnly(integers, scale[:, None], None, 8, dtype, device)
    return Int8Weight(integers, scale, dtype, device)


class Int4Weight:
    """A weight of 4-bit integers, two in a byte, unpacked for each product: x Wᵀ with W = (q - z) scale, rounded once.

    On CPUs for any number of rows: torch's packed kernel is not vectorized there for float32 (docs/performance.md).
    """

    kernel = "products of unpacked 4-bit integers"

    def __init__(self, integers: Tensor, scale: Tensor, zero_point: Tensor, device: torch.device) -> None:
        """From integers uint8 [out, in] (0 to 15), scale float32 and zero point uint8 [out, groups]."""
        self.columns = integers.shape[1]
        low, high = torch.nn.functional.pad(integers, (0, self.columns % 2)).chunk(2, 1)
        self.halves = (low | high << 4).to(device)  # [out, ceil(in / 2)]: columns of the first half, and of the second
        self.scale, self.zero_point = scale.float().to(device), zero_point.to(device)

    @property
    def nbytes(self) -> int:
        """Bytes of the integers, scales and zero points."""
        return self.halves.nbytes + self.scale.nbytes + self.zero_point.nbytes

    def multiply(self, x: Tensor) -> Tensor:
        """x [rows, in] Wᵀ, in the dtype of x."""
        step = max(1, _AT_ONCE // self.columns)
        return torch.cat([x @ self.weight(slice(i, i + step), x.dtype).T for i in range(0, len(self.halves), step)], 1)

    def weight(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """W of some rows, [rows, in]; in float32 the number that a checkpoint's definition says, bit for bit."""
        halves, (scale, zero_point) = self.halves[rows], (part[rows, :, None] for part in (self.scale, self.zero_point))
        whole = torch.empty(len(halves), 2 * halves.shape[1], dtype=dtype, device=halves.device)
        low, high = whole.chunk(2, 1)
        low.copy_(halves & 15)
        high.copy_(halves >> 4)
        weight = whole[:, : self.columns]
        weight.unflatten(1, (scale.shape[1], -1)).sub_(zero_point).mul_(scale)
        return weight


class TinygemmWeight:
    """A weight of 4-bit integers as torch's packed kernel for GPUs holds it; x Wᵀ with W = (q - 8) s + o, o = (8 - z) s.

    From `rows` rows on W is unpacked, for this product alone, and multiplied by the dtype's own kernel: tinygemm is made
    for few rows. W is the same by either: q - 8 is exact, the rest rounded once to the dtype of x.
    """

    def __init__(self, integers: Tensor, scale: Tensor, zero_point: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """From integers uint8 [out, in] (0 to 15), scale float32 and zero point uint8 [out, groups]; a shape that it takes."""
        group = integers.shape[1] // scale.shape[1]
        self.group = next(g for g in _TINYGEMM_GROUPS if group % g == 0)
        repeated = [t.float().repeat_interleave(group // self.group, 1) for t in (scale, (8 - zero_point.float()) * scale)]
        self.scales = torch.stack([t.T for t in repeated], -1).contiguous().to(device, dtype)  # [groups, out, (scale, offset)]
        self.packed = _tinygemm_packed(integers.to(device))
        self.unpacking = _unpacking(device, dtype, self.group) if _unpacks(device) else None
        self.rows = TINYGEMM_ROWS_BY_STEPS if self.unpacking is _UNPACKED else TINYGEMM_ROWS

    @staticmethod
    def takes(out: int, columns: int, groups: int, dtype: torch.dtype) -> bool:
        """Whether the kernel takes a weight [out, in]."""
        grouped = columns // groups % _TINYGEMM_GROUPS[-1] == 0
        return grouped and columns % 128 == 0 and out % 16 == 0 and dtype == torch.bfloat16

    @property
    def nbytes(self) -> int:
        """Bytes of the packed integers and of the scales."""
        return self.packed.nbytes + self.scales.nbytes

    @property
    def kernel(self) -> str:
        """Its name, for the record."""
        many = f"; of {self.rows} rows and more, {self.unpacking.name}" if self.unpacking else ""
        return "torch._weight_int4pack_mm (tinygemm)" + many

    def multiply(self, x: Tensor) -> Tensor:
        """x [rows, in] Wᵀ, in the dtype of x and of the scales."""
        if self.unpacking and len(x) >= self.rows:
            return x @ self.weight().T
        operators: Any = torch.ops.aten
        result: Tensor = operators._weight_int4pack_mm(x, self.packed, self.group, self.scales)
        return result

    def weight(self) -> Tensor:
        """W [out, in], in the dtype of the scales."""
        result: Tensor = (self.unpacking or _UNPACKED).run(self.packed, self.scales, self.group)
        return result


def _unpacked(packed: Tensor, scales: Tensor, group: int) -> Tensor:
    """W [out, in] of words as `tinygemm_integers` reads them, and of `scales` [in / group, out, (s, o)]: (q - 8) s + o."""
    scale, offset = (part.T[..., None] for part in scales.unbind(-1))  # [out, groups, 1]
    weight = tinygemm_integers(packed).to(scales.dtype)
    grouped = weight.unflatten(1, (scale.shape[1], group))
    torch.addcmul(offset, grouped.sub_(8), scale, out=grouped)
    return weight


_UNPACKED = Kernel("unpacked step by step", _unpacked)


@cache
def _unpacking(device: torch.device, dtype: torch.dtype, group: int) -> Kernel:
    """The fastest that gives what `_unpacked` gives, bit for bit."""
    kernels = around(device.type)
    if kernels is None:
        return _UNPACKED
    generator, (out, columns) = torch.Generator().manual_seed(0), _TRIED
    words = torch.randint(-(2**31), 2**31, (out // 8, columns // 128, 32, 4), generator=generator, dtype=torch.int32)
    scales = torch.randn(columns // group, out, 2, generator=generator)
    given = words.to(device), scales.to(device, dtype), group
    return faster(Kernel(f"unpacked by {kernels.NAME}", kernels.unpacked), _UNPACKED, given)


def tinygemm_integers(packed: Tensor) -> Tensor:
    """Integers uint8 [out, in] of words int32 [out / 8, in / 128, 32 lanes, 4] (PyTorch, `matrix_to_m16n8k16_Bint4_layout`).

    Lane t holds row t / 4 and, in word j, columns 32 j + 8 p + 2 (t % 4) + odd at the 4 bits 4 (4 odd + p), p = 0 to 3.
    """
    pairs = packed.contiguous().view(torch.uint8).view(*packed.shape[:2], 8, 4, 4, 2, 2)  # row, t % 4, j, odd, p / 2
    integers = torch.stack([pairs & 15, pairs >> 4], -1)  # p % 2
    return integers.permute(0, 2, 1, 4, 6, 7, 3, 5).reshape(8 * len(packed), -1)


def _tinygemm_packed(integers: Tensor) -> Tensor:
    operators: Any = torch.ops.aten
    packed: Tensor = operators._convert_weight_to_int4pack((integers[:, ::2] << 4 | integers[:, 1::2]).contiguous(), 8)
    return packed


@cache
def _packs(device: torch.device) -> bool:
    """Whether the device has the kernels: GPUs before Ampere do not."""
    try:
        return len(_tinygemm_packed(torch.zeros(16, 128, dtype=torch.uint8, device=device))) > 0
    except RuntimeError:
        return False


@cache
def _unpacks(device: torch.device) -> bool:
    """Whether the device packs as `tinygemm_integers` unpacks: asked once, since the layout is a kernel's own."""
    integers = torch.randint(0, 16, (48, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    packed = _tinygemm_packed(integers.to(device))
    return packed.shape == (6, 2, 32, 4) and torch.equal(tinygemm_integers(packed).cpu(), integers)


class Int8Weight:
    """A weight of 8-bit integers, one scale per row, held as it is; `multiply(x)` is x Wᵀ with W = q s."""

    kernel = "products of widened 8-bit integers"

    def __init__(self, integers: Tensor, scale: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """From integers int8 [out, in] and scale float32 [out]."""
        self.integers, self.scale, self.dtype = integers.to(device), scale.float().to(device), dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the integers and of the scales."""
        return self.integers.nbytes + self.scale.nbytes

    def multiply(self, x: Tensor) -> Tensor:
        """x [rows, in] Wᵀ, in the dtype of x, which holds every 8-bit integer."""
        return ((x @ self.integers.T.to(x.dtype)).float() * self.scale).to(x.dtype)
