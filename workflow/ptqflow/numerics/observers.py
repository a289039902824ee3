"""Observers: the range [low, high] of each group of a weight, and statistics of an input's channels.

Ranges are of groups [rows, groups, n]: two tensors [rows, groups].
"""

import torch
from torch import Tensor

from ptqflow.numerics.convention import Grid
from ptqflow.numerics.grid import integer_range, on_grid, scale_and_zero_point
from ptqflow.numerics.pieces import at_once

_SUMMED = 1 << 20  # numbers, in float32
_STEPS_BETWEEN_CHECKS = 3  # of the grid, between looks at which rows are done
_WORTH_A_COPY = 0.85  # rows are dropped when fewer than this share is left
_ROUNDING_SLACK = 1e-4  # more than float32 sums can be off


def min_max(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The full range of each group, float32."""
    groups = groups.float()
    return groups.amin(dim=-1), groups.amax(dim=-1)


def mse_search(
    groups: Tensor, grid: Grid, norm: float = 2.4, max_shrink: float = 0.8, n_grid: int = 100
) -> tuple[Tensor, Tensor]:
    """The range p * [min, max] that minimizes sum |x' - x|^norm, x' the quantized group.

    p runs over 1, 1 - 1/n_grid, ... in int(max_shrink * n_grid) steps (80 by default: 1.00 to 0.21); a smaller range wins only by
    strict improvement. All groups at once, in pieces that bound the memory (GPTQ reference, `Quantizer.find_params`).
    """
    rows, count, n = groups.shape
    flat = groups.reshape(rows * count, n).float()
    low, high = min_max(flat)
    step = max(1, at_once(flat) // n)
    best = [
        _search(*part, grid, norm, max_shrink, n_grid)
        for part in zip(flat.split(step), low.split(step), high.split(step), strict=True)
    ]
    ratio = torch.cat(best)
    return (low * ratio).reshape(rows, count), (high * ratio).reshape(rows, count)


def _search(x: Tensor, low: Tensor, high: Tensor, grid: Grid, norm: float, max_shrink: float, n_grid: int) -> Tensor:
    """Best p of each row of x [k, n]. Rows leave the search when no smaller p can win, which changes no result."""
    ratios = torch.ones_like(low)
    alive = torch.arange(len(x), device=x.device)
    best_error, best_ratio = torch.full_like(low, torch.inf), torch.ones_like(low)
    for i in range(int(max_shrink * n_grid)):
        ratio = 1 - i / n_grid
        scale, zero_point = (t.unsqueeze(-1) for t in scale_and_zero_point(low * ratio, high * ratio, grid))
        error = torch.zeros_like(low)
        for piece in x.split(at_once(x), dim=-1):
            difference = on_grid(piece, scale, zero_point, grid).sub_(piece)
            error += difference.abs_().pow_(norm).sum(-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_ratio = torch.where(better, ratio, best_ratio)
        if i % _STEPS_BETWEEN_CHECKS == 0:
            open_ = _least_error(low, high, scale.squeeze(-1), grid, norm) * (1 - _ROUNDING_SLACK) < best_error
            if int(open_.sum()) < _WORTH_A_COPY * len(x):
                ratios[alive] = best_ratio
                x, low, high, alive, best_error, best_ratio = (t[open_] for t in (x, low, high, alive, best_error, best_ratio))
                if not len(x):
                    break
    ratios[alive] = best_ratio
    return ratios


def _least_error(low: Tensor, high: Tensor, scale: Tensor, grid: Grid, norm: float) -> Tensor:
    """What the two outermost elements lose at least on a grid of this scale: never less for a smaller range."""
    lowest, highest = integer_range(grid.num_bits, grid.symmetric)
    if grid.symmetric:
        return (torch.maximum(-low, high) + lowest * scale).clamp(min=0).pow(norm)
    beyond = (high - low - (highest - lowest) * scale).clamp(min=0)  # shared between the two ends: least when halved
    return 2 * (beyond / 2).pow(norm) if norm >= 1 else beyond.pow(norm)


class ChannelStatistics:
    """Per-channel max|x|, mean|x|, mean and mean x² over all rows seen. Sums are float64, so long runs stay exact."""

    def __init__(self) -> None:
        self.rows = 0
        self._absmax: Tensor | None = None
        self._sums: Tensor | None = None  # [3, channels]: |x|, x, x²

    def update(self, x: Tensor) -> None:
        """Add rows x [rows, channels] of any float dtype: float32 sums within some hundred rows, float64 beyond, on the CPU."""
        absmax, sums = [], []
        rows = max(1, _SUMMED // x.shape[1])
        whole = len(x) - len(x) % rows
        for piece in filter(len, (*x[:whole].split(rows * max(1, at_once(x) // _SUMMED)), x[whole:])):
            groups = piece.float().unflatten(0, (-1, min(rows, len(piece))))
            magnitude = groups.abs()
            absmax.append(magnitude.amax((0, 1)))
            sums.append(torch.stack([magnitude.sum(1), groups.sum(1), magnitude.square_().sum(1)]))
        self._add(torch.stack(absmax).amax(0).cpu(), torch.cat(sums, 1).cpu().sum(1, dtype=torch.float64))
        self.rows += x.shape[0]

    def _add(self, absmax: Tensor, sums: Tensor) -> None:
        self._absmax = absmax if self._absmax is None else torch.maximum(self._absmax, absmax)
        self._sums = sums if self._sums is None else self._sums.add_(sums)

    def result(self) -> dict[str, Tensor]:
        """`absmax` (float32), `mean_abs`, `mean`, `second_moment` (float64), each [channels]; ValueError before any row."""
        if self._absmax is None or self._sums is None:
            raise ValueError("no rows were seen")
        mean_abs, mean, second_moment = self._sums / self.rows
        return {"absmax": self._absmax, "mean_abs": mean_abs, "mean": mean, "second_moment": second_moment}
