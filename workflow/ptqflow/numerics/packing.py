"""Integers of 2 to 8 bits packed into 32-bit words: pure functions.

Dense stream: element i of a row occupies bits i*b to i*b+b-1 of the row's stream, lowest first; the stream is cut into 32-bit
words, the ragged end is filled with zeros. 32 elements fill b words exactly; where b does not divide 32, elements straddle words.
Words are int32 bit patterns and may be negative. Elements are unsigned: signed grids are offset by 2^(b-1) first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of an AutoAWQ word holds column 8c + AWQ_ORDER[i]


def packed_length(n: int, num_bits: int) -> int:
    """Words that n elements fill."""
    return -(-n * num_bits // 32)


def pack(values: Tensor, num_bits: int) -> Tensor:
    """Rows of unsigned integers [rows, n], each below 2^num_bits, as int32 words [rows, ceil(n * num_bits / 32)]."""
    rows, n = values.shape
    groups = values.new_zeros(rows, -(-n // 32) * 32, dtype=torch.uint8)
    groups[:, :n] = values
    groups = groups.unflatten(1, (-1, 32))
    words = torch.zeros(*groups.shape[:2], num_bits, dtype=torch.int64, device=values.device)
    for i in range(32):
        word, offset = divmod(i * num_bits, 32)
        element = groups[:, :, i].long()
        words[:, :, word] |= (element << offset) & 0xFFFFFFFF
        if offset + num_bits > 32:
            words[:, :, word + 1] |= element >> (32 - offset)
    words = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
    return words.flatten(1)[:, : packed_length(n, num_bits)].contiguous()


def unpack(words: Tensor, num_bits: int, n: int) -> Tensor:
    """The first n elements of each row of int32 words [rows, ceil(n * num_bits / 32)], uint8 [rows, n]: inverse of `pack`.

    Raises ValueError for another number of words.
    """
    rows, length = words.shape
    if length != packed_length(n, num_bits):
        raise ValueError(f"{n} elements of {num_bits} bits fill {packed_length(n, num_bits)} words, not {length}")
    count = -(-n // 32)
    groups = words.new_zeros(rows, count * num_bits, dtype=torch.int64)
    groups[:, :length] = words.long() & 0xFFFFFFFF
    groups = groups.unflatten(1, (count, num_bits))
    values = torch.empty(rows, count, 32, dtype=torch.uint8, device=words.device)
    for i in range(32):
        word, offset = divmod(i * num_bits, 32)
        element = groups[:, :, word] >> offset
        if offset + num_bits > 32:
            element = element | (groups[:, :, word + 1] << (32 - offset))
        values[:, :, i] = (element & (2**num_bits - 1)).to(torch.uint8)
    return values.flatten(1)[:, :n].contiguous()


def unpack_weight(
    words: Tensor, shape: Sequence[int], num_bits: int, scale_shape: Sequence[int], zero_points: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Integers uint8 [out, in] and zero points uint8 [out, groups] of a weight in `pack-quantized` form (compressed-tensors).

    `zero_points` int32 [ceil(out * num_bits / 32), groups] are packed along rows; None: a symmetric grid, whose zero is 2^(b-1).
    """
    integers = unpack(words, num_bits, shape[1])
    if zero_points is None:
        return integers, torch.full(tuple(scale_shape), 2 ** (num_bits - 1), dtype=torch.uint8)
    return integers, unpack(zero_points.T.contiguous(), num_bits, shape[0]).T


def reorder_awq(values: Tensor) -> Tensor:
    """Columns [rows, n] (n a multiple of 8) in the order in which AutoAWQ's words hold them."""
    return values.unflatten(1, (-1, 8))[:, :, list(AWQ_ORDER)].flatten(1)


def restore_awq(values: Tensor) -> Tensor:
    """The inverse of `reorder_awq`."""
    return values.unflatten(1, (-1, 8))[:, :, [AWQ_ORDER.index(j) for j in range(8)]].flatten(1)
