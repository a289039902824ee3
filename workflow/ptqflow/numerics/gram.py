"""Gram matrices XᵀX of a linear's inputs, and the quadratic forms w XᵀX wᵀ of them. Only their lower halves are computed."""

import torch
from torch import Tensor

from ptqflow.numerics.products import multiply, rounds_operands

_WIDEST = 1024  # of matrices that are not halved
_ROWS = 96  # at once on a CPU: more use the symmetry less, fewer multiply slower; elsewhere launches would cost more
_ROWS_OF_UNITS = 384  # at once on a CPU with matrix units, where each product first rounds its operands
_COLUMNS = 256  # at once
_MULTIPLE = 64  # of which the sizes of halves are
_DIRECTIONS = 64
_SLICES = 4  # at most: more use the symmetry better, but make narrow products


def add_gram(gram: Tensor, x: Tensor) -> None:
    """Add xᵀx of rows x [k, n] (float32) to the lower half of `gram` [n, n]; of the upper half, what is near the diagonal."""
    if len(gram) > _WIDEST:
        half = -(-len(gram) // 2 // _MULTIPLE) * _MULTIPLE
        left, right = x[:, :half], x[:, half:]
        gram[half:, :half].addmm_(right.T, left)
        add_gram(gram[:half, :half], left)
        add_gram(gram[half:, half:], right)
        return
    step = len(gram) if x.device.type != "cpu" else _ROWS_OF_UNITS if rounds_operands() else _ROWS
    for stop in range(step, len(gram) + step, step):
        own = slice(stop - step, stop)
        gram[own, :stop].addmm_(x[:, own].T, x[:, :stop])


def mirror(gram: Tensor) -> Tensor:
    """Copy the lower half of `gram` [n, n] to its upper half, in place; returns it."""
    for start in range(0, len(gram), _COLUMNS):
        stop = start + _COLUMNS
        own = gram[start:stop, start:stop]
        own.copy_(own.tril() + own.tril(-1).T)
        gram[start:stop, stop:] = gram[stop:, start:stop].T
    return gram


class LowerHalf:
    """The lower half of a symmetric matrix XᵀX [n, n] as `quadratic_forms` reads it, by blocks: a copy."""

    def __init__(self, gram: Tensor) -> None:
        self.width = max(_COLUMNS, -(-len(gram) // _SLICES))
        self.slices = []
        for start in range(0, len(gram), self.width):
            part = gram[start:, start : start + self.width].clone()  # [n - start, columns]
            part[: part.shape[1]] /= 2
            self.slices.append(part)

    def quadratic_forms(self, rows: Tensor) -> Tensor:
        """w XᵀX wᵀ [k] of each row w of `rows` [k, n]."""
        found = rows.new_zeros(len(rows))
        for start, part in zip(range(0, rows.shape[1], self.width), self.slices, strict=True):
            product = multiply(rows[:, start:], part)
            found += product.mul_(rows[:, start : start + self.width]).sum(1)
        return found.mul_(2)


class Rows:
    """X [k, n] itself, for the quadratic forms that XᵀX would give: less work where the rows are fewer than the columns.

    Products are in the dtype of X. Bfloat16 rounds each factor and product by up to 1/512, at random: what is summed over many
    channels, tokens and rows is off by far less.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x.T

    def quadratic_forms(self, rows: Tensor) -> Tensor:
        """|X wᵀ|² [k] (float32) of each row w of `rows` [k, n] (float32)."""
        return multiply(rows.to(self.x.dtype), self.x).float().square_().sum(1)


class LeadingPart:
    """A symmetric XᵀX [n, n] as its leading directions and the diagonal of the rest: near its quadratic forms, for little work.

    XᵀX ~ F Fᵀ + diag(d); F [n, 64] from a projection on 64 random directions, once multiplied (Halko et al., 2011). Rounding
    errors of channels are nearly independent, so that the rest beside the diagonal adds little to their quadratic forms.
    """

    def __init__(self, gram: Tensor) -> None:
        start = torch.randn(len(gram), min(_DIRECTIONS, len(gram)), generator=torch.Generator().manual_seed(0)).to(gram)
        basis = torch.linalg.qr(gram @ start).Q
        size, turn = torch.linalg.eigh(basis.T @ (gram @ basis))
        self.factor = basis @ turn * size.clamp(min=0).sqrt()
        self.diagonal = gram.diagonal() - self.factor.square().sum(1)

    def quadratic_forms(self, rows: Tensor) -> Tensor:
        """Near w XᵀX wᵀ [k] of each row w of `rows` [k, n]."""
        return multiply(rows, self.factor).square_().sum(1) + rows.square() @ self.diagonal
