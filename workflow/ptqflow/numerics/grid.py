"""Integer grids: where the integers lie, how numbers are put on them and taken back. Pure functions, float32 inside.

Symmetric: signed integers [-2^(b-1), 2^(b-1)-1], zero point 0. Asymmetric: unsigned integers [0, 2^b-1],
scale = (max-min) / (2^b-1), zero point = round(-min/scale). Rounding is half to even. Activations follow FlatQuant: symmetric
scale max|x| / (2^(b-1)-1), ranges widened to hold 0; for weights the convention is a choice (`numerics.convention`).

Scales of weights are numbers that bfloat16 and float16 hold (`stored_scale`), and zero points and integers follow from them: a
checkpoint of any format has exactly the scales that the search, the rounding and the fake-quantized form used.

A range of zero width (a group of zeros) still gets a finite positive scale: for weights the range is at least
`WEIGHT_RANGE_FLOOR` (compressed-tensors: only the scale has a floor, the least stored one), for activations the scale is 1
(symmetric) or the range [-1, 1] (asymmetric). All give zeros back exactly.
"""

import torch
from torch import Tensor

from ptqflow.numerics.convention import Grid

WEIGHT_RANGE_FLOOR = 1e-5
_TINY = torch.finfo(torch.float32).tiny
_TIED_BITS = 4  # up to 1/64 of a step, by which bfloat16 rounds quotients there; a quarter at 8 bits
_LEAST_STORED = 2.0**-24  # the least number that float16 holds; bfloat16 holds its multiples up to 2^-17


def integer_range(num_bits: int, symmetric: bool) -> tuple[int, int]:
    """Smallest and largest integer of the grid."""
    return (-(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1) if symmetric else (0, 2**num_bits - 1)


def storage_dtype(symmetric: bool) -> torch.dtype:
    """The 8-bit type that holds integers and zero points of the grid."""
    return torch.int8 if symmetric else torch.uint8


def quotient(x: Tensor, divisor: float) -> Tensor:
    """x / divisor, on every device the nearest float32: divided by a number of the host, CUDA multiplies by its reciprocal."""
    return x / x.new_full((), divisor)


def stored_scale(scale: Tensor) -> Tensor:
    """The bfloat16 number nearest to each weight scale (float32, positive), as float32; float16 holds it, too, up to 65280.

    Below 2^-17 it is the next multiple of 2^-24, upwards. Nearest moves a scale by 2^-8 of it at most: the ends of a symmetric
    grid stay within half a step of the range, those of an asymmetric one within half a step and (2^b - 1) 2^-8 of a step. On
    normal weights it adds up to 0.02 % to the squared error at 3 and 4 bits and 0.9 % at 8; rounding up, which never clips, adds
    0.7 to 1.5 % at any width. The gradient is one.
    """
    scale = scale.clamp(min=_LEAST_STORED)
    rounded = torch.where(scale < 2**-17, (scale / _LEAST_STORED).ceil() * _LEAST_STORED, scale.bfloat16().float())
    return scale + (rounded - scale).detach()  # exact: the two are within a factor of 2


def scale_and_zero_point(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Stored scale (float32, positive) and zero point (integers as float32) of weights with range [low, high], of one shape."""
    low, high, levels = low.float(), high.float(), 2**grid.num_bits - 1
    compressed = grid.convention == "compressed-tensors"
    floor = 0.0 if compressed else WEIGHT_RANGE_FLOOR
    if grid.symmetric:
        scale = stored_scale(quotient(torch.maximum(-low, high).clamp(min=floor), levels / 2 if compressed else levels // 2))
        return scale, torch.zeros_like(scale)
    if grid.convention != "awq":
        low, high = low.clamp(max=0), high.clamp(min=0)
    exact = quotient((high - low).clamp(min=floor), levels)
    scale = stored_scale(exact)
    if compressed:  # its integers are signed; so is the arithmetic, to the last bit
        lowest, highest = integer_range(grid.num_bits, symmetric=True)
        return scale, torch.round((lowest - low / exact.clamp(min=_TINY)).clamp(lowest, highest)) - lowest
    return scale, torch.round(-low / scale).clamp(0, levels)  # a scale that was rounded down can pass the end by one


def dynamic_scale_and_zero_point(low: Tensor, high: Tensor, num_bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale (float32, positive) and zero point of activations with range [low, high]; no checkpoint holds them."""
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    levels = 2 ** (num_bits - 1) - 1 if symmetric else 2**num_bits - 1
    if symmetric:
        width = torch.maximum(-low, high)
        scale = quotient(torch.where(width == 0, float(levels), width), levels).clamp(min=_TINY)
        return scale, torch.zeros_like(scale)
    empty = (low == 0) & (high == 0)
    low, high = torch.where(empty, -1.0, low), torch.where(empty, 1.0, high)
    scale = quotient(high - low, levels).clamp(min=_TINY)
    return scale, torch.round(-low / scale)


def unclamped(ratio: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """Integers round(x / scale) + zero_point, as float32, before the grid ends, of `ratio` x / scale (float32), which is used up.

    On the symmetric grid of compressed-tensors the ends of a range lie half-way between two integers, but for the rounding of the
    scale. Up to `_TIED_BITS` the quotient is rounded to bfloat16, as there on bfloat16 weights, which makes most of them ties:
    -max goes to the lowest integer. Left to the scale, half of the lower ends would move inwards, as all upper ones do, and what
    they lose adds up along the output: 2 to 3 % more error in trained models (docs/performance.md). GPTQ's loop rounds others.
    """
    if grid.convention != "compressed-tensors":
        return ratio.round_().add_(zero_point)
    if grid.symmetric:
        return (ratio.bfloat16() if grid.num_bits <= _TIED_BITS else ratio).round_().float()
    middle = 2 ** (grid.num_bits - 1)
    return ratio.add_(zero_point - middle).round_().add_(middle)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """Integers clamp(round(x / scale) + zero_point), as float32. `scale` and `zero_point` broadcast against `x`."""
    return unclamped(x.float() / scale, zero_point, grid).clamp_(*integer_range(grid.num_bits, grid.symmetric))


def dequantize(integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """(integers - zero_point) * scale in float32, broadcasting."""
    return integers.to(torch.float32, copy=True).sub_(zero_point).mul_(scale)


def on_grid(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """What `dequantize` makes of `quantize`: the numbers nearest to `x` that the grid holds, float32."""
    return quantize(x, scale, zero_point, grid).sub_(zero_point).mul_(scale)


def fake_quantize(x: Tensor, num_bits: int, symmetric: bool, shards: int = 1) -> Tensor:
    """Dynamic quantize-dequantize with one scale per row of the last dimension (a token, or a token and head).

    `shards` splits the last dimension into equal parts with scales of their own. Arithmetic is float32; the result has
    the dtype and shape of `x` [..., n]. Raises ValueError when `shards` does not divide n.
    """
    if x.shape[-1] % shards:
        raise ValueError(f"{shards} shards do not divide {x.shape[-1]} channels")
    rows = x.float().unflatten(-1, (shards, -1))
    low, high = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)  # aminmax is several times slower on the CPU
    scale, zero_point = dynamic_scale_and_zero_point(low, high, num_bits, symmetric)
    return on_grid(rows, scale, zero_point, Grid(num_bits, symmetric)).flatten(-2).to(x.dtype)


def fake_quantize_static(x: Tensor, scale: Tensor, num_bits: int) -> Tensor:
    """Quantize-dequantize on the symmetric grid of a given scale [1]. Float32 inside; dtype and shape of `x`."""
    lowest, highest = integer_range(num_bits, symmetric=True)
    step = scale.float()
    return torch.round(x.float() / step).clamp_(lowest, highest).mul_(step).to(x.dtype)


def fake_quantize_groups(groups: Tensor, grid: Grid) -> Tensor:
    """Round-to-nearest quantize-dequantize of weight groups [..., n] over their full range, float32. `groups` float32."""
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    return on_grid(groups, *scale_and_zero_point(low, high, grid), grid)


def group_weight(weight: Tensor, strategy: str, group_size: int | None = None, shards: int = 1) -> Tensor:
    """A weight [out, in] as [rows, groups, n]: each [row, group] shares one scale.

    tensor: [1, shards, out*in/shards]; channel: [out, shards, in/shards]; group: [out, in/group_size, group_size].
    Groups never straddle input shards. Raises ValueError when sizes do not divide (no padding: zeros would enter the range).
    """
    out_features, in_features = weight.shape
    if in_features % shards:
        raise ValueError(f"{shards} shards do not divide {in_features} input columns")
    width = in_features // shards
    if strategy == "group":
        if not group_size or width % group_size:
            raise ValueError(f"group_size {group_size} does not divide {width} input columns (of each of {shards} shards)")
        return weight.reshape(out_features, -1, group_size)
    split = weight.reshape(out_features, shards, width)
    return split if strategy == "channel" else split.transpose(0, 1).reshape(1, shards, out_features * width)


def ungroup_weight(groups: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The weight of `shape` (out, in) from its groups: the inverse of `group_weight`."""
    out_features, in_features = shape
    if groups.shape[0] == out_features:
        return groups.reshape(out_features, in_features)
    return groups.reshape(groups.shape[1], out_features, -1).transpose(0, 1).reshape(out_features, in_features)


def dequantize_weight(integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """A weight [out, in] in float32 from integers [out, in] and per-group scale and zero point [out, groups]."""
    grouped = integers.unflatten(1, (scale.shape[1], -1))
    return dequantize(grouped, scale.unsqueeze(-1), zero_point.unsqueeze(-1)).flatten(1)
