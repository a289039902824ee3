"""What stands around a product of integers, on a GPU in one kernel each: quantization of inputs, alone or with FlatQuant's
transform, scaling of the sums, and unpacking of 4-bit weights. Step by step (`modeling.input_scheme`, `modeling.integer_linear`,
`devices.weight_only`) each is a dozen kernels, whose launches cost more than the product itself for a few tokens.

The arithmetic is that of the steps, operation by operation: IEEE quotients, rounding half to even, no product fused into a sum.
So results are equal bit for bit, but for the order in which a transform's products add up. Triton comes with torch for GPUs,
where alone this is imported; `TRITON_INTERPRET=1` runs it on a CPU.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

NAME = "Triton"
_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
_MAGIC = tl.constexpr(1.5 * 2.0**23)  # beside it float32 numbers are integers, so a sum with it rounds, half to even
_COLUMNS, _INNER, _LEAST = 1024, 64, 16  # of a program that scales; terms of a transform at a time, and the fewest of a product
_UNPACKED = 512  # columns of a program that unpacks
_EXACT: dict[str, Any] = {"enable_fp_fusion": False}


@triton.jit
def _rounded(x: tl.tensor) -> tl.tensor:
    return (x + _MAGIC) - _MAGIC


@triton.jit
def _on_grid(x: tl.tensor, clip: tl.tensor, BITS: tl.constexpr, SYMMETRIC: tl.constexpr) -> tl.tensor:
    """Integers less 2^(b-1) where unsigned, scale and zero point of one token, as `numerics.grid`; x float32, padded by zeros."""
    low, high = tl.minimum(tl.min(x), 0.0) * clip, tl.maximum(tl.max(x), 0.0) * clip
    if SYMMETRIC:
        levels, shift = 2.0 ** (BITS - 1) - 1, 0.0
        width = tl.maximum(-low, high)
        scale = tl.maximum(tl.div_rn(tl.where(width == 0, levels, width), levels), _TINY)
        zero = scale * 0.0
        integers = tl.clamp(_rounded(tl.div_rn(x, scale)), -levels - 1, levels)
    else:
        levels, shift = 2.0**BITS - 1, 2.0 ** (BITS - 1)
        empty = (low == 0) & (high == 0)
        low, high = tl.where(empty, -1.0, low), tl.where(empty, 1.0, high)
        scale = tl.maximum(tl.div_rn(high - low, levels), _TINY)
        zero = _rounded(tl.div_rn(-low, scale))
        integers = tl.clamp(_rounded(tl.div_rn(x, scale)) + zero, 0.0, levels)
    return (integers - shift).to(tl.int8), scale, zero - shift


@triton.jit
def _quantize(
    x: tl.tensor,
    q: tl.tensor,
    s: tl.tensor,
    z: tl.tensor,
    n: tl.tensor,
    clip: tl.tensor,
    BITS: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    N: tl.constexpr,
) -> None:
    """A token: x [rows, n] to q int8, s and z float32 [rows]."""
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, N)
    numbers = tl.load(x + row * n + at, mask=at < n, other=0.0).to(tl.float32)
    integers, scale, zero = _on_grid(numbers, clip, BITS, SYMMETRIC)
    tl.store(q + row * n + at, integers, mask=at < n)
    tl.store(s + row, scale)
    tl.store(z + row, zero)


@triton.jit
def _transform(
    x: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    q: tl.tensor,
    s: tl.tensor,
    z: tl.tensor,
    clip: tl.tensor,
    BITS: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    L: tl.constexpr,
    R: tl.constexpr,
    K: tl.constexpr,
) -> None:
    """A token X [ROWS, COLUMNS]: Lᵀ (X R), each product summed in float32 and rounded to the dtype of x; then as `_quantize`."""
    row, i, j = tl.program_id(0).to(tl.int64), tl.arange(0, L)[:, None], tl.arange(0, R)[None, :]
    at, inside = row * ROWS * COLUMNS + i * COLUMNS + j, (i < ROWS) & (j < COLUMNS)
    total = tl.zeros((L, R), tl.float32)
    for start in range(0, COLUMNS, K):
        down, across = start + tl.arange(0, K)[:, None], start + tl.arange(0, K)[None, :]
        part = tl.load(x + row * ROWS * COLUMNS + i * COLUMNS + across, mask=(i < ROWS) & (across < COLUMNS), other=0.0)
        by = tl.load(right + down * COLUMNS + j, mask=(down < COLUMNS) & (j < COLUMNS), other=0.0)
        total = tl.dot(part, by, total, input_precision="ieee")
    across = tl.arange(0, L)[None, :]
    turned = tl.load(left + across * ROWS + i, mask=(i < ROWS) & (across < ROWS), other=0.0)
    numbers = tl.dot(turned, total.to(x.dtype.element_ty), input_precision="ieee").to(x.dtype.element_ty).to(tl.float32)
    integers, scale, zero = _on_grid(numbers, clip, BITS, SYMMETRIC)
    tl.store(q + at, integers, mask=inside)
    tl.store(s + row, scale)
    tl.store(z + row, zero)


@triton.jit
def _scale(
    total: tl.tensor,
    sums: tl.tensor,
    zero: tl.tensor,
    by_row: tl.tensor,
    by_column: tl.tensor,
    bias: tl.tensor,
    y: tl.tensor,
    n: tl.tensor,
    zero_stride: tl.tensor,
    row_stride: tl.tensor,
    SHIFTED: tl.constexpr,
    BIASED: tl.constexpr,
    N: tl.constexpr,
) -> None:
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * N + tl.arange(0, N)
    inside = at < n
    number = tl.load(total + row * n + at, mask=inside)
    if SHIFTED:
        number -= tl.load(zero + row * zero_stride).to(tl.int32) * tl.load(sums + at, mask=inside)
    scaled = number.to(tl.float32) * tl.load(by_column + at, mask=inside) * tl.load(by_row + row * row_stride)
    if BIASED:
        scaled += tl.load(bias + at, mask=inside).to(tl.float32)
    tl.store(y + row * n + at, scaled.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _unpack(
    packed: tl.tensor, pairs: tl.tensor, w: tl.tensor, out: tl.tensor, n: tl.tensor, GROUP: tl.constexpr, N: tl.constexpr
) -> None:
    """Eight rows of W [out, n] from words as `weight_only.tinygemm_integers` reads them; pairs (s, o) [n / GROUP, out, 2]."""
    tile, row, at = tl.program_id(0).to(tl.int64), tl.arange(0, 8)[:, None], (tl.program_id(1) * N + tl.arange(0, N))[None, :]
    inside = at < n
    lane, position = 4 * row + at % 8 // 2, 4 * (at % 2) + at % 32 // 8
    words = tl.load(packed + ((tile * (n // 128) + at // 128) * 32 + lane) * 4 + at % 128 // 32, mask=inside, other=0)
    of_group = pairs + (at // GROUP * out + 8 * tile + row) * 2
    scale = tl.load(of_group, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(of_group + 1, mask=inside, other=0.0).to(tl.float32)
    weight = ((words >> 4 * position & 15) - 8).to(tl.float32) * scale + offset
    tl.store(w + (8 * tile + row) * n + at, weight.to(w.dtype.element_ty), mask=inside)


def unpacked(packed: Tensor, scales: Tensor, group: int) -> Tensor:
    """W [out, in] in the dtype of `scales` [in / group, out, 2]: (q - 8) s + o; `packed` as tinygemm has it."""
    out, n = 8 * len(packed), 128 * packed.shape[1]
    weight = torch.empty(out, n, dtype=scales.dtype, device=scales.device)
    _unpack[len(packed), triton.cdiv(n, _UNPACKED)](
        packed, scales, weight, out, n, GROUP=group, N=_UNPACKED, num_warps=4, **_EXACT
    )
    return weight


def quantized(
    rows: Tensor, bits: int, symmetric: bool, clip: float, left: Tensor | None, right: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [rows, in], transformed where asked, on the grid of each: integers int8, scale and zero point float32 [rows, 1]."""
    rows = rows.contiguous()
    (count, columns), where = rows.shape, rows.device
    integers = torch.empty(count, columns, dtype=torch.int8, device=where)
    scale, zero = (torch.empty(count, 1, device=where) for _ in range(2))
    grid = {"clip": clip, "BITS": bits, "SYMMETRIC": symmetric}
    if left is None or right is None:
        size = triton.next_power_of_2(columns)
        _quantize[count,](rows, integers, scale, zero, columns, **grid, N=size, num_warps=_warps(size), **_EXACT)
    else:
        L, R = (max(_LEAST, triton.next_power_of_2(len(side))) for side in (left, right))
        turns = (side.to(rows.dtype).contiguous() for side in (left, right))
        shape = {"ROWS": len(left), "COLUMNS": len(right), "L": L, "R": R, "K": min(R, _INNER), "num_warps": _warps(L * R)}
        _transform[count,](rows, *turns, integers, scale, zero, **grid, **shape, **_EXACT)
    return integers, scale, zero


def scaled(
    total: Tensor, sums: Tensor | None, zero: Tensor, by_row: Tensor, by_column: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """(total - zero sums) by_column by_row + bias, in float32, [rows, out] in `dtype`; `total` int32.

    `zero`, `by_row` one number or [rows, 1]; `sums` int32, `by_column` and `bias` [out].
    """
    total = total.contiguous()
    rows, n = total.shape
    y = torch.empty(rows, n, dtype=dtype, device=total.device)
    zero, by_row = (numbers.flatten().expand(rows) for numbers in (zero, by_row))
    given = (total if part is None else part for part in (sums, bias))  # something to point at
    sums_, bias_ = given
    options = {"SHIFTED": sums is not None, "BIASED": bias is not None, "N": _COLUMNS, "num_warps": 4}
    strides = zero.stride(0), by_row.stride(0)
    _scale[rows, triton.cdiv(n, _COLUMNS)](total, sums_, zero, by_row, by_column, bias_, y, n, *strides, **options, **_EXACT)
    return y


def _warps(size: int) -> int:
    return min(16, max(1, size // 1024))
