"""Gram matrices XᵀX of a linear's inputs, and the energies that they give. Only their lower halves are computed."""

import torch
from torch import Tensor

_COLUMNS = 256  # at once at least, to use the symmetry


def add_gram(gram: Tensor, x: Tensor) -> None:
    """Add xᵀx of rows x [k, n] (float32) to `gram` [n, n], but only to its lower half, by blocks: the rest is left undefined."""
    n = len(gram)
    width = max(_COLUMNS, n // 8)
    for start in range(0, n, width):
        stop = min(start + width, n)
        gram[start:stop, :stop].addmm_(x[:, start:stop].T, x[:, :stop])


def mirror(gram: Tensor) -> Tensor:
    """Copy the lower half of `gram` [n, n] to its upper half, in place; returns it."""
    for start in range(0, len(gram), _COLUMNS):
        stop = start + _COLUMNS
        own = gram[start:stop, start:stop]
        own.copy_(own.tril() + own.tril(-1).T)
        gram[start:stop, stop:] = gram[stop:, start:stop].T
    return gram


def energies(rows: Tensor, gram: Tensor) -> Tensor:
    """|X wᵀ|² of each row w of `rows` [k, n]: w XᵀX wᵀ [k], from the lower half of the symmetric XᵀX [n, n]."""
    found = rows.new_zeros(len(rows))
    width = max(_COLUMNS, rows.shape[1] // 8)
    for start in range(0, rows.shape[1], width):
        stop = start + width
        own, later = rows[:, start:stop], rows[:, stop:]
        product = torch.addmm(own @ gram[start:stop, start:stop], later, gram[stop:, start:stop], alpha=2)
        found += product.mul_(own).sum(1)
    return found
