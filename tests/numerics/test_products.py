"""Float32 products and quadratic_forms, against float64."""

import itertools
from contextlib import nullcontext

import pytest
import torch
from ptqflow.numerics import gram as gram_module
from ptqflow.numerics.gram import LeadingPart, LowerHalf, Rows, add_gram, mirror
from ptqflow.numerics.products import add_product, bfloat16_matmul, float32_matmul, multiply, rounds_operands


@pytest.mark.parametrize(("k", "n", "m"), [(0, 5, 3), (1, 1, 1), (37, 129, 65), (300, 640, 257), (2900, 16, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_by_parts_is_the_product(k, n, m, dtype):
    random = torch.Generator().manual_seed(0)
    rows, matrix = torch.randn(k, n + 7, dtype=dtype, generator=random)[:, 7:], torch.randn(m, n, dtype=dtype, generator=random).T
    found, expected = multiply(rows, matrix), rows.double() @ matrix.double()
    assert (found.shape, found.dtype) == ((k, m), dtype)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("n", [0, 1, 128, 333, 2816])
def test_a_product_is_added_part_by_part(n):
    random = torch.Generator().manual_seed(0)
    left, right = torch.randn(n, 37, generator=random).T, torch.randn(n, 65, generator=random)
    total = torch.randn(37, 65, generator=random)
    expected = total.double() + left.double() @ right.double()
    add_product(total, left, right)
    assert (total - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("transpose", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("product", [torch.mm, torch.bmm, torch.matmul])
def test_float32_products_are_float32_throughout(product, transpose):
    """Whatever shape: none may go by a kernel that rounds operands, whose errors would be 1/512 of |a| |b|."""
    random = torch.Generator().manual_seed(0)
    for m, k, n in itertools.product([1, 3, 16, 64, 257], repeat=3):
        a, b = (
            torch.randn(7, *(size[::-1] if swap else size), generator=random)
            for size, swap in zip([(m, k), (k, n)], transpose, strict=True)
        )
        a, b = (x.mT if swap else x for x, swap in zip((a, b), transpose, strict=True))
        if product is torch.mm:
            a, b = a[0], b[0]
        with float32_matmul():
            found = product(a, b)
        error = (found - product(a.double(), b.double())).abs() / product(a.abs().double(), b.abs().double())
        assert error.max() < 3e-6, (m, k, n)


def test_whether_operands_are_rounded_does_not_depend_on_who_asks_first():
    found = []
    for asking in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        rounds_operands.cache_clear()
        with asking:
            found.append(rounds_operands())
    assert found[0] == found[1]


def test_where_operands_may_be_rounded_results_still_are_float32():
    a, b = torch.randn(64, 64).bfloat16().float(), torch.randn(64, 64).bfloat16().float()
    before = torch.backends.mkldnn.matmul.fp32_precision
    with bfloat16_matmul():
        found = a @ b
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert (found - a.double() @ b.double()).abs().max() < 1e-4


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
    torch.testing.assert_close(LowerHalf(gram).quadratic_forms(rows).double(), expected, rtol=2e-5, atol=0)
    torch.testing.assert_close(Rows(x.float()).quadratic_forms(rows).double(), expected, rtol=2e-5, atol=0)


def test_energies_of_bfloat16_inputs_are_as_good_though_products_are_in_bfloat16():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 300, generator=random) * torch.logspace(-2, 2, 300)
    x, rows = x.bfloat16(), torch.randn(33, 300, generator=random)
    expected = (rows.double() @ x.double().T).square().sum(1)
    found = Rows(x).quadratic_forms(rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1 / 128, atol=0)
    torch.testing.assert_close(found.double().sum(), expected.sum(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("n", [3, 256, 700, 1200])
def test_a_gram_matrix_grows_batch_by_batch(n, units, monkeypatch):
    monkeypatch.setattr(gram_module, "rounds_operands", lambda: units)
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
    exact = LowerHalf(gram := x.T @ x).quadratic_forms(rows)
    assert ((LeadingPart(gram).quadratic_forms(rows) - exact) / exact).abs().max() < 0.03
    rows, gram = rows[:, :50], gram[:50, :50]
    torch.testing.assert_close(LeadingPart(gram).quadratic_forms(rows), LowerHalf(gram).quadratic_forms(rows), rtol=1e-3, atol=0)
