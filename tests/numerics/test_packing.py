"""Packed words: against a slow reference written from the format's definition, and against the compressed-tensors library."""

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from hypothesis import given
from hypothesis import strategies as st
from ptqflow.numerics.packing import pack, packed_length, reorder_awq, restore_awq, unpack

BITS = st.integers(2, 8)


@st.composite
def rows(draw):
    bits, n = draw(BITS), draw(st.integers(1, 100))
    count = draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**16))
    values = torch.randint(0, 2**bits, (count, n), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return bits, values


def slow_pack(values: list[int], bits: int) -> list[int]:
    """The definition: one big integer whose bit i*b + k is bit k of element i, cut into signed 32-bit words."""
    stream = sum(value << (i * bits) for i, value in enumerate(values))
    words = [(stream >> (32 * j)) & 0xFFFFFFFF for j in range(-(-len(values) * bits // 32))]
    return [word - 2**32 if word >= 2**31 else word for word in words]


@given(rows())
def test_words_are_the_bit_stream_of_the_definition(case):
    bits, values = case
    assert pack(values, bits).tolist() == [slow_pack(row, bits) for row in values.tolist()]


@given(rows())
def test_unpack_inverts_pack(case):
    bits, values = case
    assert torch.equal(unpack(pack(values, bits), bits, values.shape[1]), values)


@given(rows())
def test_words_are_those_of_compressed_tensors(case):
    bits, values = case
    signed = (values.to(torch.int16) - 2 ** (bits - 1)).to(torch.int8)
    words = pack_to_int32(signed, bits)
    assert torch.equal(pack(values, bits), words)
    assert torch.equal(unpack_from_int32(words, bits, values.shape).to(torch.int16) + 2 ** (bits - 1), values.to(torch.int16))


@given(rows())
def test_ragged_ends_are_zeros(case):
    bits, values = case
    used = values.shape[1] * bits
    last = pack(values, bits)[:, -1].long() & 0xFFFFFFFF
    assert (last >> (used % 32 or 32) == 0).all()


def test_thirty_two_values_of_three_bits_fill_three_words_and_two_straddle():
    assert packed_length(32, 3) == 3
    values = torch.zeros(1, 32, dtype=torch.uint8)
    values[0, 10] = values[0, 21] = 7
    assert pack(values, 3).tolist() == [[(0b11 << 30) - 2**32, (1 << 31 | 1) - 2**32, 0b11]]


def test_another_number_of_words_is_refused():
    with pytest.raises(ValueError, match="fill 3 words, not 4"):
        unpack(torch.zeros(1, 4, dtype=torch.int32), 3, 32)


def test_nibble_i_of_an_awq_word_is_column_o_i():
    columns = torch.arange(16, dtype=torch.uint8).unsqueeze(0)
    words = pack(reorder_awq(columns), 4)
    assert [(int(words[0, 1]) >> 4 * i & 15) - 8 for i in range(8)] == [0, 2, 4, 6, 1, 3, 5, 7]
    assert torch.equal(restore_awq(reorder_awq(columns)), columns)
