"""Float32 products and energies, against float64."""

import pytest
import torch
from ptqflow.numerics.gram import LeadingPart, LowerHalf, Rows, add_gram, mirror
from ptqflow.numerics.products import multiply, prepare


@pytest.mark.parametrize(("k", "n", "m"), [(0, 5, 3), (1, 1, 1), (37, 129, 65), (300, 640, 257)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_prepared_product_is_the_product(k, n, m, dtype):
    random = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(size, n, dtype=dtype, generator=random) for size in (k, m))
    found, expected = multiply(rows, prepare(weight)), rows.double() @ weight.double().T
    assert (found.shape, found.dtype) == ((k, m), dtype)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_a_prepared_product_takes_columns_of_rows():
    rows, weight = torch.randn(20, 64), torch.randn(8, 48)
    torch.testing.assert_close(multiply(rows[:, 16:], prepare(weight)), rows[:, 16:] @ weight.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 64, 256, 300, 1030])
def test_energies_are_those_of_the_outputs_though_one_channel_is_huge(n):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(400, n, generator=random, dtype=torch.float64)
    x[:, 0] *= 1e4
    rows = torch.randn(33, n, generator=random)
    rows[:, 0] *= 1e-4
    rows[0] = 0
    gram = (x.T @ x).float()
    expected = (rows.double() @ gram.double() * rows.double()).sum(1)
    gram[:256, 512:] = torch.nan  # only the lower half is read, by blocks
    torch.testing.assert_close(LowerHalf(gram).energies(rows).double(), expected, rtol=2e-5, atol=0)
    torch.testing.assert_close(Rows(x.float()).energies(rows).double(), expected, rtol=2e-5, atol=0)


def test_energies_of_bfloat16_inputs_are_as_good_though_products_are_in_bfloat16():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 300, generator=random) * torch.logspace(-2, 2, 300)
    x, rows = x.bfloat16(), torch.randn(33, 300, generator=random)
    expected = (rows.double() @ x.double().T).square().sum(1)
    found = Rows(x).energies(rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1 / 128, atol=0)
    torch.testing.assert_close(found.double().sum(), expected.sum(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("n", [3, 256, 700])
def test_a_gram_matrix_grows_batch_by_batch(n):
    batches = torch.randn(3, 50, n)
    gram = torch.zeros(n, n)
    for x in batches:
        add_gram(gram, x)
    x = batches.flatten(0, 1).double()
    assert (mirror(gram) - x.T @ x).norm() < 1e-6 * (x.T @ x).norm()
    assert torch.equal(gram, gram.T)


def test_the_leading_part_is_near_and_with_as_many_directions_as_channels_exact():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(900, 40, generator=random) @ torch.randn(40, 500, generator=random) + torch.randn(900, 500, generator=random)
    rows = torch.randn(100, 500, generator=random)
    exact = LowerHalf(gram := x.T @ x).energies(rows)
    assert ((LeadingPart(gram).energies(rows) - exact) / exact).abs().max() < 0.03
    rows, gram = rows[:, :50], gram[:50, :50]
    torch.testing.assert_close(LeadingPart(gram).energies(rows), LowerHalf(gram).energies(rows), rtol=1e-3, atol=0)
