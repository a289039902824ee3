"""Integer grids: where the integers lie, how numbers are put on them and taken back. Pure functions, float32 inside.

Symmetric: signed integers [-2^(b-1), 2^(b-1)-1], scale = max|x| / (2^(b-1)-1), zero point 0.
Asymmetric: unsigned integers [0, 2^b-1], range widened to hold 0, scale = (max-min) / (2^b-1), zero point = round(-min/scale).
These are the conventions of FlatQuant and Quantized-Reasoning-Models. Rounding is half to even.

Scales of weights are numbers that bfloat16 and float16 hold (`stored_scale`), and zero points and integers follow from them: a
checkpoint of any format has exactly the scales that the search, the rounding and the fake-quantized form used.

A range of zero width (a group of zeros) still gets a finite positive scale: for weights the range is at least
`WEIGHT_RANGE_FLOOR`, for activations the scale is 1 (symmetric) or the range [-1, 1] (asymmetric). Both give zeros back exactly.
"""

import torch
from torch import Tensor

WEIGHT_RANGE_FLOOR = 1e-5
_TINY = torch.finfo(torch.float32).tiny
_LEAST_STORED = 2.0**-24  # the least number that float16 holds; bfloat16 holds its multiples up to 2^-17


def integer_range(num_bits: int, symmetric: bool) -> tuple[int, int]:
    """Smallest and largest integer of the grid."""
    return (-(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1) if symmetric else (0, 2**num_bits - 1)


def storage_dtype(symmetric: bool) -> torch.dtype:
    """The 8-bit type that holds integers and zero points of the grid."""
    return torch.int8 if symmetric else torch.uint8


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


def scale_and_zero_point(
    low: Tensor, high: Tensor, num_bits: int, symmetric: bool, floor: float | None = WEIGHT_RANGE_FLOOR
) -> tuple[Tensor, Tensor]:
    """Scale (float32, positive) and zero point (integers as float32) of ranges [low, high], any common shape.

    `floor` is the smallest width of a range of weights; None is the rule for activations (module docstring), whose scales no
    checkpoint holds.
    """
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    levels = 2 ** (num_bits - 1) - 1 if symmetric else 2**num_bits - 1
    if symmetric:
        width = torch.maximum(-low, high)
        width = width.clamp(min=floor) if floor is not None else torch.where(width == 0, float(levels), width)
        scale = _positive(width / levels, floor)
        return scale, torch.zeros_like(scale)
    if floor is None:
        empty = (low == 0) & (high == 0)
        low, high = torch.where(empty, -1.0, low), torch.where(empty, 1.0, high)
    width = high - low if floor is None else (high - low).clamp(min=floor)
    scale = _positive(width / levels, floor)
    return scale, torch.round(-low / scale).clamp(max=levels)  # a scale that was rounded down can pass the end by one


def _positive(scale: Tensor, floor: float | None) -> Tensor:
    return scale.clamp(min=_TINY) if floor is None else stored_scale(scale)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, num_bits: int, symmetric: bool) -> Tensor:
    """Integers clamp(round(x / scale) + zero_point), as float32. `scale` and `zero_point` broadcast against `x`."""
    lowest, highest = integer_range(num_bits, symmetric)
    return torch.round(x.float() / scale).add_(zero_point).clamp_(lowest, highest)


def dequantize(integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """(integers - zero_point) * scale in float32, broadcasting."""
    return (integers.float() - zero_point.float()) * scale


def fake_quantize(x: Tensor, num_bits: int, symmetric: bool, shards: int = 1) -> Tensor:
    """Dynamic quantize-dequantize with one scale per row of the last dimension (a token, or a token and head).

    `shards` splits the last dimension into equal parts with scales of their own. Arithmetic is float32; the result has
    the dtype and shape of `x` [..., n]. Raises ValueError when `shards` does not divide n.
    """
    if x.shape[-1] % shards:
        raise ValueError(f"{shards} shards do not divide {x.shape[-1]} channels")
    rows = x.float().unflatten(-1, (shards, -1))
    low, high = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)  # aminmax is several times slower on the CPU
    scale, zero_point = scale_and_zero_point(low, high, num_bits, symmetric, floor=None)
    integers = quantize(rows, scale, zero_point, num_bits, symmetric)
    return integers.sub_(zero_point).mul_(scale).flatten(-2).to(x.dtype)


def fake_quantize_groups(groups: Tensor, num_bits: int, symmetric: bool) -> Tensor:
    """Round-to-nearest quantize-dequantize of weight groups [..., n] over their full range, float32. `groups` float32."""
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale, zero_point = scale_and_zero_point(low, high, num_bits, symmetric)
    return quantize(groups, scale, zero_point, num_bits, symmetric).sub_(zero_point).mul_(scale)


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
