"""GPTQ's column loop (`methods.roundings.gptq`) on a GPU: a block of columns in one kernel, where the steps launch five for each
column, which take longer than what they compute.

Rows of a weight do not touch each other: each program takes some of them through all columns of the block, which it holds on the
chip. The arithmetic is that of the steps, IEEE quotients and rounding half to even, but for the order in which errors are summed.

Nothing that is read is written: the threads of a program that hold the same numbers do not wait for each other, so one would read
what another had already put there.
"""

import triton
import triton.language as tl
from torch import Tensor

NAME = "Triton"
_WHOLE = tl.constexpr(1.5 * 2.0**23)  # as there
_ROWS = 32  # of a weight, of one program
_MOST_COLUMNS = 256  # that it holds
_WARPS = 4


@triton.jit
def _visit(
    block: tl.tensor,
    columns: tl.tensor,
    current: tl.tensor,
    steps: tl.tensor,
    made: tl.tensor,
    lower: tl.tensor,
    scales: tl.tensor,
    lowest: tl.tensor,
    highest: tl.tensor,
    groups: tl.tensor,
    out: tl.tensor,
    stride: tl.tensor,
    COUNT: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """As `visit`, but that `block` and `columns` stay: `current` becomes c, `made` w - q. `stride`: of rows of `lower`."""
    row, at = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = row < out
    errors = tl.zeros((COLUMNS, ROWS), tl.float32)  # w - q of columns that are rounded, else 0
    for turn in range(COUNT):
        j = COUNT - 1 - turn
        weights = tl.load(lower + at * stride + j, mask=(at > j) & (at < COUNT), other=0.0)
        c = tl.load(block + j * out + row, mask=inside, other=0.0) + tl.sum(errors * weights[:, None], 0)
        group = tl.load(groups + j) * out + row
        scale = tl.load(scales + group, mask=inside, other=1.0)
        whole = tl.div_rn(c, scale) + _WHOLE
        whole = tl.minimum(tl.maximum(whole, tl.load(lowest + group, mask=inside)), tl.load(highest + group, mask=inside))
        step = whole - _WHOLE
        error = tl.load(columns + j * out + row, mask=inside, other=0.0) - step * scale
        errors = tl.where(at[:, None] == j, error[None, :], errors)
        tl.store(current + j * out + row, c, mask=inside)
        tl.store(steps + j * out + row, step, mask=inside)
        tl.store(made + j * out + row, error, mask=inside)


def visit(block: Tensor, steps: Tensor, columns: Tensor, lower: Tensor, grids: tuple[Tensor, ...], groups: Tensor) -> None:
    """As `gptq.visit`. Raises ValueError for more columns than a program holds, or where rows of `lower` are not contiguous."""
    count, out = block.shape
    if lower.stride(1) != 1:
        raise ValueError("rows of the factor are to be contiguous")
    if count > _MOST_COLUMNS:
        raise ValueError(f"a program holds {_MOST_COLUMNS} columns, not {count}")
    shape = {"COUNT": count, "COLUMNS": triton.next_power_of_2(count), "ROWS": _ROWS}
    given = (block.clone(), columns.clone(), block, steps, columns, lower, *grids, groups, out, lower.stride(0))
    _visit[triton.cdiv(out, _ROWS),](*given, **shape, num_warps=_WARPS, enable_fp_fusion=False)
