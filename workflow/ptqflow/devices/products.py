"""Products with integer weights, by device: a table of kernels, of which the fastest that is right is taken.

A kernel is believed only after it was asked on the device itself: products of integers must come out exact (int8 kernels of some
CPUs saturate, `engines.vllm_kernels`). Where several do, they are timed, since a kernel that exists may be a plain loop.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ptqflow.devices import npu
from ptqflow.devices.case import Case
from ptqflow.errors import ConfigError

_EXACT_TERMS = 1024  # int8 products sum exactly in float32 while 2^14 * terms <= 2^24
_WIDENED = 1 << 20  # numbers of a weight that are float32 at once
_ROWS = 32  # CUDA's int8 product wants more than 16 rows


@dataclass(frozen=True)
class Kernel:
    """What computes, by its name, for the record."""

    name: str
    run: Callable[..., Any]


def by_float32(rows: Tensor, weight: Tensor) -> Tensor:
    """Exact on any device with true float32 products: sums of 1024 terms are, and are added as integers.

    Weights are widened a part at a time, which stays in a processor's cache.
    """
    parts = weight.split(_WIDENED // min(rows.shape[1], _EXACT_TERMS))
    wide = rows.float()
    products = [_summed(wide, part) for part in parts]
    return torch.cat(products, 1) if len(products) > 1 else products[0]


def _summed(rows: Tensor, weight: Tensor) -> Tensor:
    total = (rows[:, :_EXACT_TERMS] @ weight[:, :_EXACT_TERMS].float().T).to(torch.int32)
    for start in range(_EXACT_TERMS, rows.shape[1], _EXACT_TERMS):
        part = slice(start, start + _EXACT_TERMS)
        total += (rows[:, part] @ weight[:, part].float().T).to(torch.int32)
    return total


def by_int_mm(rows: Tensor, weight: Tensor) -> Tensor:
    """torch's own int8 product; of one input feature it is written out, since torch then reads the weight by a wrong stride."""
    return torch._int_mm(rows, weight.T) if rows.shape[1] > 1 else rows.int() * weight.int().T


def by_padded_int_mm(rows: Tensor, weight: Tensor) -> Tensor:
    """The same on CUDA (cuBLASLt), which asks for more than 16 rows, and for multiples of 8 on every side."""
    (m, k), n = rows.shape, len(weight)
    rows, weight = _padded(rows, max(_ROWS, _by_8(m)), _by_8(k)), _padded(weight, _by_8(n), _by_8(k))
    return torch._int_mm(rows, weight.T)[:m, :n]


def _by_8(size: int) -> int:
    return -(-size // 8) * 8


def _padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    more = (0, columns - matrix.shape[1], 0, rows - len(matrix))
    return torch.nn.functional.pad(matrix, more) if any(more) else matrix


INT8: dict[str, list[Kernel]] = {
    "cpu": [Kernel("torch._int_mm", by_int_mm), Kernel("float32 products of 1024 terms", by_float32)],
    "cuda": [Kernel("torch._int_mm (cuBLASLt)", by_padded_int_mm), Kernel("float32 products of 1024 terms", by_float32)],
    "npu": [Kernel("npu_quant_matmul to int32", npu.int8_product), Kernel("float32 products of 1024 terms", by_float32)],
}
FUSED = {"npu": npu.Fused()}  # operators that quantize inputs and scale results themselves
OWN = {"cuda"}  # types of devices that have kernels of our own


def fused(device: torch.device, case: Case) -> npu.Fused | None:
    """The device's operators for a case, or None: then products are exact, and what is around them is done step by step."""
    found = FUSED.get(device.type)
    return found if found is not None and found.takes(case) else None


def around(kind: str) -> Any | None:
    """Kernels of our own for what stands around a product, as `own`."""
    return own(kind, "triton_kernels")


@cache
def own(kind: str, module: str) -> Any | None:
    """`devices.<module>` for a type of device that has kernels of our own; else, or where Triton is missing, None."""
    if kind not in OWN:
        return None
    try:
        return import_module(f"ptqflow.devices.{module}")  # Triton comes with torch for GPUs alone
    except ImportError:
        return None


@cache
def int8_kernel(device: torch.device) -> Kernel:
    """The fastest exact product of int8 matrices [m, k] and [n, k], int32 [m, n]. Raises ConfigError where there is none."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randint(-128, 128, (n, 1536), generator=generator, dtype=torch.int8) for n in (128, 512))
    rows[0], weight[0] = 127, -128  # what saturates first
    exact = (rows.double() @ weight.double().T).to(torch.int32)
    found = fastest(INT8.get(device.type, []), (rows.to(device), weight.to(device)), exact)
    if found is None:
        raise ConfigError(
            f"no exact int8 product is known on {device}; use engine transformers or vllm, or another form of checkpoint"
        )
    return found


def fastest(kernels: Sequence[Kernel], arguments: Sequence[Any], expected: Tensor | Sequence[Tensor]) -> Kernel | None:
    """Of the kernels that make of the arguments what is expected, bit for bit, the fastest; None where none does.

    Of a kernel that does not, a line says why.
    """
    right = []
    for kernel in kernels:
        if (fault := _fault(kernel, arguments, expected)) is None:
            right.append(kernel)
        else:
            print(f"not taken on this device: {kernel.name} ({fault})", file=sys.stderr)
    return min(right, key=lambda kernel: _seconds(kernel, arguments)) if len(right) > 1 else next(iter(right), None)


def faster(kernel: Kernel, steps: Kernel, arguments: Sequence[Any]) -> Kernel:
    """`kernel` where it makes of the arguments what its steps make, bit for bit, and is faster; else `steps`."""
    return fastest([kernel, steps], arguments, steps.run(*arguments)) or steps


def _fault(kernel: Kernel, arguments: Sequence[Any], expected: Tensor | Sequence[Tensor]) -> str | None:
    try:
        found = kernel.run(*arguments)
    except Exception as error:  # not on this device; what compiles for one raises errors of its own
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    for a, b in zip(_parts(found), _parts(expected), strict=True):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return f"{a.dtype} {list(a.shape)} where {b.dtype} {list(b.shape)} is asked for"
        if wrong := int((a.cpu() != b.cpu()).sum()):
            return f"{wrong} of {b.numel()} numbers are wrong"
    return None


def _seconds(kernel: Kernel, arguments: Sequence[Any]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        _parts(kernel.run(*arguments))[0].flatten()[:1].cpu()  # waits for the device
        times.append(time.perf_counter() - start)
    return min(times)


def _parts(result: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [result] if isinstance(result, Tensor) else result
