"""One weight in three formats: equal integers and equal dequantized weights, by our readers, by slow ones written from the
formats' definitions, and by compressed-tensors' own converter."""

import pytest
import torch
from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter
from hypothesis import given, settings
from hypothesis import strategies as st
from ptqflow.checkpoints import registry
from ptqflow.checkpoints.layout import GridWeight, QuantizedLinear
from ptqflow.checkpoints.schemes import LinearScheme
from ptqflow.errors import ArtifactError
from ptqflow.numerics.grid import integer_range, storage_dtype
from ptqflow.scheme import WeightArgs

# encode and decode depend on the linear alone: no model is needed
CT, AWQ, GPTQ = (object.__new__(registry.layout(form)) for form in ("compressed-tensors", "autoawq", "gptq"))


def linear_of(bits, symmetric, rows, columns, group, dtype=torch.float16):
    args = WeightArgs(num_bits=bits, symmetric=symmetric, strategy="group", group_size=group)
    scheme = LinearScheme(0, "q_proj", "qkv", "self_attn.q_proj", args, None, group)
    return QuantizedLinear(scheme, args, (rows, columns), columns // group, dtype)


def random_weight(linear, seed):
    random = torch.Generator().manual_seed(seed)
    low, high = integer_range(linear.weights.num_bits, linear.weights.symmetric)
    dtype, groups = storage_dtype(linear.weights.symmetric), (linear.shape[0], linear.groups)
    integers = torch.randint(low, high + 1, linear.shape, generator=random).to(dtype)
    zero_point = torch.randint(low, high + 1, groups, generator=random).to(dtype)
    if linear.weights.symmetric:
        zero_point = torch.zeros_like(zero_point)
    else:
        zero_point[0, 0] = 0  # the one that wraps in GPTQ version 1
    return GridWeight(integers, (torch.rand(groups, generator=random) * 0.02 + 1e-3).bfloat16().float(), zero_point)


@st.composite
def weights(draw, bits):
    linear = linear_of(
        draw(st.sampled_from(bits)), draw(st.booleans()), draw(st.integers(1, 3)) * 32, draw(st.integers(1, 3)) * 64, 32
    )
    return linear, random_weight(linear, draw(st.integers(0, 2**16)))


def same(a, b):
    return all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


@settings(deadline=None, max_examples=30)
@given(weights((4,)))
def test_compressed_tensors_autoawq_and_gptq_hold_the_same_weight(case):
    linear, weight = case
    for layout in (CT, AWQ, GPTQ):
        tensors = layout.encode(linear, weight)
        spec = layout.linear_spec(linear)
        assert tensors.keys() == spec.keys()
        assert [s.mismatch(tensors[name]) for name, s in spec.items()] == [None] * len(spec)
        assert same(layout.decode(linear, tensors), weight)


@settings(deadline=None, max_examples=30)
@given(weights((2, 3, 4, 8)))
def test_gptq_and_compressed_tensors_hold_the_same_weight_at_every_width(case):
    linear, weight = case
    assert same(GPTQ.decode(linear, GPTQ.encode(linear, weight)), CT.decode(linear, CT.encode(linear, weight)))


@settings(deadline=None, max_examples=30)
@given(weights((4,)))
def test_compressed_tensors_own_converter_makes_our_tensors_of_autoawqs(case):
    """It always writes zero points: compare with the asymmetric weight that a symmetric one equals."""
    linear, weight = case
    if linear.weights.symmetric:
        offset = GridWeight((weight.integers + 8).to(torch.uint8), weight.scale, (weight.zero_point + 8).to(torch.uint8))
        linear = linear_of(4, False, *linear.shape, 32)
        weight = offset
    converted = AutoAWQConverter(group_size=32).process({f"m.{k}": v for k, v in AWQ.encode(linear, weight).items()})
    expected = {f"m.{k}": v for k, v in CT.encode(linear, weight).items()}
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


def bits_of(word, start, count):
    return (int(word) >> start) & (2**count - 1)


def slow_gptq(tensors, bits, stored_less):
    """The format's definition, weight by weight: bit streams down the columns of qweight and along the rows of qzeros."""

    def element(words, i):
        return sum(bits_of(words[(i * bits + k) // 32], (i * bits + k) % 32, 1) << k for k in range(bits))

    columns, rows = len(tensors["g_idx"]), tensors["scales"].shape[1]
    weight = torch.empty(rows, columns)
    for i in range(columns):
        group = tensors["g_idx"][i]
        for j in range(rows):
            zero = element(tensors["qzeros"][group], j) + stored_less
            weight[j, i] = (element(tensors["qweight"][:, j], i) - zero) * tensors["scales"][group, j].float()
    return weight


def slow_autoawq(tensors, group):
    """The format's definition: nibble i of word c is output 8c + order[i]."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    columns, rows = tensors["qweight"].shape[0], tensors["scales"].shape[1]
    weight = torch.empty(rows, columns)
    for i in range(columns):
        for j in range(rows):
            start = 4 * order.index(j % 8)
            q, z = (bits_of(tensors[name][row, j // 8], start, 4) for name, row in (("qweight", i), ("qzeros", i // group)))
            weight[j, i] = (q - z) * tensors["scales"][i // group, j].float()
    return weight


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_slow_gptq_reader_gives_the_same_weight(bits, symmetric):
    linear = linear_of(bits, symmetric, 32, 64, 32)
    weight = random_weight(linear, bits)
    assert torch.equal(slow_gptq(GPTQ.encode(linear, weight), bits, int(symmetric)), weight.dequantized())


@pytest.mark.parametrize("symmetric", [True, False])
def test_slow_autoawq_reader_gives_the_same_weight(symmetric):
    linear = linear_of(4, symmetric, 24, 64, 32)
    weight = random_weight(linear, 0)
    assert torch.equal(slow_autoawq(AWQ.encode(linear, weight), 32), weight.dequantized())


def test_symmetric_zero_points_are_stored_as_each_version_wants():
    linear = linear_of(4, True, 32, 32, 32)
    weight = random_weight(linear, 0)
    assert GPTQ.encode(linear, weight)["qzeros"].unique().tolist() == [0x77777777]
    assert (AWQ.encode(linear, weight)["qzeros"].unique().long() & 0xFFFFFFFF).tolist() == [0x88888888]


@pytest.mark.parametrize("scale", [1e6, 1e-9])
def test_a_scale_that_float16_cannot_hold_is_refused_by_name(scale):
    linear = linear_of(4, True, 32, 32, 32)
    weight = random_weight(linear, 0)._replace(scale=torch.full((32, 1), scale))
    with pytest.raises(ArtifactError, match=r"layers\.0\.self_attn\.q_proj: the scale 1e.* does not fit float16"):
        GPTQ.encode(linear, weight)
    zeros = weight._replace(integers=torch.zeros_like(weight.integers))
    if scale < 1:  # groups of zeros have scales that nobody needs
        assert (GPTQ.encode(linear, zeros)["scales"] > 0).all()
