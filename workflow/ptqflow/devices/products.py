"""Products with integer weights, by device: a table of kernels, of which the fastest that is right is taken.

A kernel is believed only after it was asked on the device itself: products of integers must come out exact (int8 kernels of some
CPUs saturate, `engines.vllm_kernels`). Where several do, they are timed, since a kernel that exists may be a plain loop.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ptqflow.devices import npu
from ptqflow.devices.case import Case
from ptqflow.errors import ConfigError

Product = Callable[[Tensor, Tensor], Tensor]
_EXACT_TERMS = 1024  # int8 products sum exactly in float32 while 2^14 * terms <= 2^24
_ROWS = 32  # CUDA's int8 product wants more than 16 rows


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
    "npu": [Kernel("npu_quant_matmul to int32", npu.int8_product), Kernel("float32 products of 1024 terms", by_float32)],
}
FUSED = {"npu": npu.Fused()}  # operators that quantize inputs and scale results themselves


def fused(device: torch.device, case: Case) -> npu.Fused | None:
    """The device's operators for a case, or None: then products are exact, and what is around them is done step by step."""
    found = FUSED.get(device.type)
    return found if found is not None and found.takes(case) else None


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
