from math import isqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ptqflow.numerics.factors import LARGEST_ASPECT, kronecker_split
from ptqflow.numerics.inverse import gradient_error, inverse
from ptqflow.transforms import kronecker


def well_conditioned(*shape):
    return torch.linalg.qr(torch.randn(*shape, dtype=torch.float64))[0] + 0.1 * torch.randn(*shape, dtype=torch.float64)


@given(st.integers(1, 40000))
def test_split_ends_for_every_number_of_channels(n):
    if all(n // a > LARGEST_ASPECT * a for a in range(1, isqrt(n) + 1) if n % a == 0):
        with pytest.raises(ValueError, match=f"{n} channels"):
            kronecker_split(n)
    else:
        left, right = kronecker_split(n)
        assert left * right == n
        assert left <= right <= LARGEST_ASPECT * left


@pytest.mark.parametrize(("n", "sides"), [(256, (16, 16)), (3584, (56, 64)), (18944, (128, 148)), (1536, (32, 48)), (6, (2, 3))])
def test_split_is_the_nearest_to_square(n, sides):
    assert kronecker_split(n) == sides


def smallest_square(n):
    """FlatQuant's and vllm-ascend's rule (`get_decompose_dim`), as they state it."""
    a = isqrt(n)
    a += a * a < n
    while isqrt(a * a - n) ** 2 != a * a - n:
        a += 1
    b = isqrt(a * a - n)
    return a - b, a + b


SIZES = (896, 1536, 2048, 3584, 4096, 4864, 5120, 8192, 8960, 9728, 11008, 13824, 14336, 18944, 25600, 27648, 28672)


@pytest.mark.parametrize("n", [*SIZES, 12, 20, 24, 36, 108, 300])
def test_split_is_the_loaders(n):
    assert kronecker_split(n) == smallest_square(n)


@given(st.integers(1, 5000).filter(lambda n: n % 4 != 2))
def test_split_is_the_loaders_wherever_that_is_near_to_square(n):
    left, right = smallest_square(n)
    if right <= LARGEST_ASPECT * left:
        assert kronecker_split(n) == (left, right)


@pytest.mark.parametrize("n", [0, 257, 2 * 7919])
def test_impossible_split_is_refused_by_name(n):
    with pytest.raises(ValueError, match=str(n)):
        kronecker_split(n)


def dense(left, right, n):
    shards, rows = max(left.shape[0], right.shape[0]), left.shape[1]
    blocks = [
        torch.kron(a.contiguous(), b.contiguous())
        for a, b in zip(left.expand(shards, -1, -1), right.expand(shards, -1, -1), strict=True)
    ]
    assert rows * right.shape[1] * shards == n
    return torch.block_diag(*blocks)


@pytest.mark.parametrize(("left", "right"), [((1, 4), (1, 6)), ((3, 2), (3, 4)), ((2, 3), (1, 4))])
def test_batched_product_equals_the_dense_block_diagonal(left, right):
    a, b = well_conditioned(left[0], left[1], left[1]), well_conditioned(right[0], right[1], right[1])
    n = max(left[0], right[0]) * left[1] * right[1]
    x, matrix = torch.randn(5, 7, n, dtype=torch.float64), dense(a, b, n)
    torch.testing.assert_close(kronecker.apply(x, a, b), x @ matrix)
    torch.testing.assert_close(kronecker.apply(x, a), x @ dense(a, torch.eye(right[1], dtype=torch.float64)[None], n))
    torch.testing.assert_close(kronecker.apply(kronecker.apply(x, a, b), inverse(a), inverse(b)), x)
    gram = x.flatten(0, 1).T @ x.flatten(0, 1)
    torch.testing.assert_close(kronecker.apply_to_gram(gram, a, b), matrix.T @ gram @ matrix)


def test_transform_preserves_the_layers_output():
    x, weight = torch.randn(9, 24, dtype=torch.float64), torch.randn(5, 24, dtype=torch.float64)
    a, b = well_conditioned(2, 3, 3), well_conditioned(2, 4, 4)
    folded = kronecker.apply(weight, inverse(a).mT, inverse(b).mT)
    torch.testing.assert_close(kronecker.apply(x, a, b) @ folded.T, x @ weight.T)


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 x 4 do not fit 10 channels"):
        kronecker.apply(torch.randn(10), torch.eye(3)[None], torch.eye(4)[None])


def test_gradient_of_the_inverse_agrees_with_finite_differences():
    matrix = well_conditioned(3, 5, 5).requires_grad_()
    assert torch.autograd.gradcheck(inverse, (matrix,))
    torch.testing.assert_close(inverse(matrix) @ matrix, torch.eye(5, dtype=torch.float64).expand(3, 5, 5))
    assert gradient_error(inverse, torch.device("cpu")) < 1e-3


def test_an_inverse_is_found_in_float64_whatever_its_dtype():
    matrix = torch.vander(torch.linspace(0.5, 1.5, 7)).expand(2, 7, 7)  # ill-conditioned
    assert torch.equal(inverse(matrix), torch.linalg.inv(matrix.double()).float())


def test_a_lost_gradient_is_noticed():
    assert gradient_error(lambda matrix: inverse(matrix.detach()), torch.device("cpu")) == pytest.approx(1)
    assert gradient_error(lambda matrix: inverse(matrix.mT).mT.detach() + 0 * matrix, torch.device("cpu")) == pytest.approx(1)


def test_singular_matrix_gives_values_that_are_not_finite():
    assert not torch.isfinite(inverse(torch.zeros(3, 3))).all()
