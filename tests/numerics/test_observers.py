import pytest
import torch
from ptqflow.numerics import observers
from ptqflow.numerics.convention import Grid
from ptqflow.numerics.grid import dequantize, quantize, scale_and_zero_point


def reference_search(row, grid, norm=2.4):
    """One group, one candidate at a time (algorithms of the GPTQ reference)."""
    best, found = float("inf"), None
    low, high = min(row.min().item(), 0.0), max(row.max().item(), 0.0)
    for i in range(80):
        p = 1 - i / 100
        scale, zero = scale_and_zero_point(torch.tensor(low) * p, torch.tensor(high) * p, grid)
        error = (dequantize(quantize(row, scale, zero, grid), scale, zero) - row).abs().pow(norm).sum().item()
        if error < best:
            best, found = error, (low * p, high * p)
    return found


@pytest.mark.parametrize("grid", [Grid(3, False), Grid(4, True), Grid(4, True, "compressed-tensors"), Grid(3, False, "awq")])
def test_mse_search_equals_a_scalar_search(grid):
    groups = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(0)).pow(3)
    low, high = observers.mse_search(groups, grid)
    for r in range(3):
        for g in range(2):
            expected = reference_search(groups[r, g], grid)
            assert (low[r, g].item(), high[r, g].item()) == pytest.approx(expected, rel=1e-6)


def test_mse_search_does_not_depend_on_how_memory_is_bounded(monkeypatch):
    groups = torch.randn(7, 3, 64, generator=torch.Generator().manual_seed(0)).pow(3)
    whole = observers.mse_search(groups, Grid(4, False))
    monkeypatch.setattr(observers, "at_once", lambda _: 48)  # smaller than one group: also sums over pieces
    pieces = observers.mse_search(groups, Grid(4, False))
    torch.testing.assert_close(whole, pieces)


def test_mse_search_keeps_the_full_range_on_ties():
    low, high = observers.mse_search(torch.zeros(2, 1, 8), Grid(4, False))
    assert low.tolist() == high.tolist() == [[0], [0]]
    tiny = torch.full((1, 1, 8), 1e-6)  # below the floor of ranges: every p gives the same scale
    assert torch.equal(observers.mse_search(tiny, Grid(4, False))[1], tiny[..., 0])
    on_grid = torch.arange(16.0).reshape(1, 1, 16)
    assert observers.mse_search(on_grid, Grid(4, False))[1].item() == 15


@pytest.mark.parametrize(
    "grid", [Grid(2, False), Grid(4, False, "awq"), Grid(3, True), Grid(8, True, "compressed-tensors"), Grid(4, False)]
)
@pytest.mark.parametrize("norm", [0.7, 1, 2.4])
def test_rows_that_leave_the_mse_search_early_would_have_won_nothing(grid, norm, monkeypatch):
    groups = torch.randn(64, 3, 64, generator=torch.Generator().manual_seed(0))
    groups[5], groups[6], groups[7] = groups[5].abs(), -groups[6].abs(), 0
    groups[8, :, 1::2] = -groups[8, :, ::2]  # the zero point lies between two integers
    groups[9] *= 1e-6  # below the floor of ranges
    groups[10:20] = groups[10:20].pow(3)
    fast = observers.mse_search(groups, grid, norm)
    monkeypatch.setattr(observers, "_WORTH_A_COPY", 0)
    slow = observers.mse_search(groups, grid, norm)
    assert torch.equal(fast[0], slow[0])
    assert torch.equal(fast[1], slow[1])


def test_mse_search_never_increases_the_error():
    groups = torch.randn(16, 1, 64, generator=torch.Generator().manual_seed(1)).pow(3)

    def error(low, high):
        scale, zero = (t.unsqueeze(-1) for t in scale_and_zero_point(low, high, Grid(3, False)))
        return (dequantize(quantize(groups, scale, zero, Grid(3, False)), scale, zero) - groups).abs().pow(2.4).sum(-1)

    searched, full = error(*observers.mse_search(groups, Grid(3, False))), error(*observers.min_max(groups))
    assert (searched <= full * (1 + 1e-6)).all()
    assert searched.sum() < 0.95 * full.sum()


@pytest.mark.parametrize(("summed", "at_once"), [(1 << 20, 1 << 20), (50, 50), (50, 200)])  # the last as on a device
def test_channel_statistics_are_those_of_all_rows_at_once(summed, at_once, monkeypatch):
    monkeypatch.setattr(observers, "_SUMMED", summed)
    monkeypatch.setattr(observers, "at_once", lambda _: at_once)
    x = torch.randn(1000, 5, generator=torch.Generator().manual_seed(0)) + 1000
    statistics = observers.ChannelStatistics()
    for part in x.split(37):
        statistics.update(part)
    result, exact = statistics.result(), x.double()
    assert torch.equal(result["absmax"], x.abs().amax(0))
    torch.testing.assert_close(result["mean"], exact.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(result["mean_abs"], exact.abs().mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(result["second_moment"], exact.square().mean(0), rtol=1e-6, atol=0)
