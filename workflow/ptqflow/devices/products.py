"""Products with integer weights, by device: a table of kernels, of which the fastest that is right is taken.

A kernel is believed only after it was asked on the device itself: products of integers must come out exact (int8 kernels of some
CPUs saturate, `engines.vllm_kernels`). Where several do, they are timed, since a kernel that exists may be a plain loop.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ptqflow.errors import ConfigError

Product = Callable[[Tensor, Tensor], Tensor]
_EXACT_TERMS = 1024  # int8 products sum exactly in float32 while 2^14 * terms <= 2^24
_ROWS = 32  # CUDA's int8 product wants more than 16 rows
INT4_INPUTS = {"cpu": 32, "cuda": 128}  # what the columns of a packed weight are multiples of
INT4_GROUPS = (256, 128, 64, 32)  # columns that share a scale in torch's packed kernels


@dataclass(frozen=True)
class Kernel:
    """A product by its name, for the record."""

    name: str
    product: Product


def by_float32(rows: Tensor, weight: Tensor) -> Tensor:
    """Exact on any device with true float32 products: sums of 1024 terms are, and are added as integers."""
    total = rows.new_zeros(len(rows), len(weight), dtype=torch.int32)
    for start in range(0, rows.shape[1], _EXACT_TERMS):
        part = slice(start, start + _EXACT_TERMS)
        total += (rows[:, part].float() @ weight[:, part].T.float()).to(torch.int32)
    return total


def by_int_mm(rows: Tensor, weight: Tensor) -> Tensor:
    """torch's own int8 product."""
    return torch._int_mm(rows, weight.T)


def by_int_mm_of_many_rows(rows: Tensor, weight: Tensor) -> Tensor:
    """The same on CUDA (cuBLASLt), which asks for more than 16 rows, in multiples of 8."""
    count = len(rows)
    padded = max(_ROWS, -(-count // 8) * 8)
    if padded != count:
        rows = torch.cat([rows, rows.new_zeros(padded - count, rows.shape[1])])
    return torch._int_mm(rows, weight.T)[:count]


INT8: dict[str, list[Kernel]] = {
    "cpu": [Kernel("torch._int_mm", by_int_mm), Kernel("float32 products of 1024 terms", by_float32)],
    "cuda": [Kernel("torch._int_mm (cuBLASLt)", by_int_mm_of_many_rows), Kernel("float32 products of 1024 terms", by_float32)],
}


@cache
def int8_kernel(device: torch.device) -> Kernel:
    """The fastest exact product of int8 matrices [m, k] and [n, k], int32 [m, n]. Raises ConfigError where there is none."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randint(-128, 128, (n, 1536), generator=generator, dtype=torch.int8) for n in (128, 512))
    rows[0], weight[0] = 127, -128  # what saturates first
    exact = (rows.double() @ weight.double().T).to(torch.int32)
    rows, weight = rows.to(device), weight.to(device)
    right = [kernel for kernel in INT8.get(device.type, []) if _equals(kernel, rows, weight, exact)]
    if not right:
        raise ConfigError(
            f"no exact int8 product is known on {device}; use engine transformers or vllm, or another form of checkpoint"
        )
    return min(right, key=lambda kernel: _seconds(kernel, rows, weight)) if len(right) > 1 else right[0]


def _equals(kernel: Kernel, rows: Tensor, weight: Tensor, exact: Tensor) -> bool:
    try:
        return torch.equal(kernel.product(rows, weight).cpu(), exact)
    except RuntimeError:  # not on this device
        return False


def _seconds(kernel: Kernel, rows: Tensor, weight: Tensor) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        kernel.product(rows, weight).cpu()
        times.append(time.perf_counter() - start)
    return min(times)


class Int4Weight:
    """A weight of 4-bit integers as torch's packed kernels hold it; `multiply(x)` is x Wᵀ with W = (q - z) scale."""

    def __init__(self, integers: Tensor, scale: Tensor, zero_point: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """From integers uint8 [out, in] (0 to 15), scale float32 and zero point uint8 [out, groups].

        Raises ConfigError where the shape, or the device, has no packed kernel.
        """
        out, columns = integers.shape
        group = columns // scale.shape[1]
        shared = next((g for g in INT4_GROUPS if group % g == 0), None)
        if device.type not in INT4_INPUTS or shared is None or columns % INT4_INPUTS[device.type] or out % 16:
            multiple = INT4_INPUTS.get(device.type, 128)
            raise ConfigError(
                f"no packed 4-bit product on {device} for a weight [{out}, {columns}] with groups of {group}; groups must be "
                f"multiples of 32, inputs of {multiple}, outputs of 16: use engine transformers or vllm"
            )
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
