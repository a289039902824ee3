"""Float32 matrix products at the CPU's full speed.

On some CPUs torch's own float32 product (MKL) reaches half the speed of oneDNN's: 190 and 410 GFLOP/s on two cores of an AMD
Zen 5. torch uses oneDNN's where it is allowed to round operands to bfloat16. CPUs with units for such products do round them;
others multiply them as they are, in float32 throughout, and there `float32_matmul` allows it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

_FEWEST_ROWS = 64  # at once, if there are so many


@contextmanager
def bfloat16_matmul() -> Iterator[None]:
    """Products of float32 matrices on the CPU may round operands to bfloat16; sums and results are float32."""
    matmul: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009 (not in torch's type stubs)
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@contextmanager
def float32_matmul() -> Iterator[None]:
    """Products of float32 matrices on the CPU in float32 throughout, by oneDNN where that is so."""
    if rounds_operands():
        yield
    else:
        with bfloat16_matmul():
            yield


@cache
def rounds_operands() -> bool:
    """Whether this CPU rounds operands to bfloat16 when it may."""
    beyond = torch.full((256, 256), 1 + 2**-12)  # 1 in bfloat16
    with torch.autocast("cpu", enabled=False), bfloat16_matmul():
        return any(bool((part @ torch.eye(256) != part).any()) for part in (beyond[:1], beyond[:32], beyond, beyond.T))


def multiply(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows @ matrix [k, m] of rows [k, n], of any number, and a matrix [n, m]."""
    if not _by_parts(rows):
        return rows @ matrix
    product = rows.new_empty(len(rows), matrix.shape[1])
    with float32_matmul():
        for part in _parts(len(rows)):
            torch.mm(rows[part], matrix, out=product[part])
    return product


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total [k, m] += left @ right, of left [k, n] and right [n, m] (float32), of any n."""
    if not _by_parts(left):
        total.addmm_(left, right)
        return
    with float32_matmul():
        start = 0
        while start < len(right):
            stop = start + (1 << (len(right) - start).bit_length() >> 1)  # a power of two, as in `_parts`
            total.addmm_(left[:, start:stop], right[start:stop])
            start = stop


def _by_parts(operand: Tensor) -> bool:
    """Whether products may go to oneDNN, which compiles and keeps one per shape."""
    return operand.device.type == "cpu" and operand.dtype == torch.float32 and not rounds_operands()


def _parts(rows: int) -> Iterator[slice]:
    """Slices that cover all rows, by powers of two, the last ones overlapping."""
    start = 0
    while start < rows:
        size = 1 << max(rows - start, min(_FEWEST_ROWS, rows)).bit_length() >> 1
        start = min(start, rows - size)
        yield slice(start, start + size)
        start += size
