"""Weights alone as integers, by device: how each holds and multiplies them. Inputs stay as they are."""

from typing import Any, Protocol

import torch
from torch import Tensor

from ptqflow.devices import npu, packed_int4
from ptqflow.errors import ConfigError


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

    Raises ConfigError where the shape, or the device, has no kernel.
    """
    if device.type in npu.WEIGHT_ONLY:
        zero = None if (zero_point == 8).all() else zero_point.short() - 8
        return npu.WeightOnly((integers.short() - 8).to(torch.int8), scale, zero, 4, dtype, device)
    return Int4Weight(integers, scale, zero_point, dtype, device)


def int8_weight(integers: Tensor, scale: Tensor, dtype: torch.dtype, device: torch.device) -> WeightOnly:
    """From integers int8 [out, in] and scale float32 [out]: W = q scale."""
    if device.type in npu.WEIGHT_ONLY:
        return npu.WeightOnly(integers, scale[:, None], None, 8, dtype, device)
    return Int8Weight(integers, scale, dtype, device)


class Int4Weight:
    """A weight of 4-bit integers as torch's packed kernels hold it; `multiply(x)` is x Wᵀ with W = (q - z) scale."""

    def __init__(self, integers: Tensor, scale: Tensor, zero_point: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """From integers uint8 [out, in] (0 to 15), scale float32 and zero point uint8 [out, groups].

        Raises ConfigError where the shape, or the device, has no packed kernel.
        """
        out, columns = integers.shape
        group = columns // scale.shape[1]
        shared = packed_int4.kernel_group(group)
        if (reason := packed_int4.refusal(device.type, out, columns, group)) is not None or shared is None:
            raise ConfigError(reason)
        self.group, self.kind = shared, device.type
        repeated = [t.float().repeat_interleave(group // shared, 1) for t in (scale, (8 - zero_point.float()) * scale)]
        self.scales = torch.stack([t.T for t in repeated], -1).contiguous().to(device, dtype)  # [groups, out, (scale, zero)]
        operators: Any = torch.ops.aten
        if self.kind == "cpu":
            self.packed = operators._convert_weight_to_int4pack_for_cpu(integers.to(torch.int32), 1)
        else:
            nibbles = (integers[:, ::2] << 4 | integers[:, 1::2]).contiguous().to(device)
            self.packed = operators._convert_weight_to_int4pack(nibbles, 8)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed integers and of the scales."""
        return self.packed.nbytes + self.scales.nbytes

    @property
    def kernel(self) -> str:
        """Its name, for the record."""
        return "torch._weight_int4pack_mm" + ("_for_cpu" if self.kind == "cpu" else " (tinygemm)")

    def multiply(self, x: Tensor) -> Tensor:
        """x [rows, in] Wᵀ, in the dtype of x and of the scales."""
        operators: Any = torch.ops.aten
        product = operators._weight_int4pack_mm_for_cpu if self.kind == "cpu" else operators._weight_int4pack_mm
        result: Tensor = product(x, self.packed, self.group, self.scales)
        return result


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
