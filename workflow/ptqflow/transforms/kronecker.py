"""Kronecker transforms of a row x [n]: x' = vec(Aᵀ X B) with X = x as a [left, right] matrix; so x' = x (A ⊗ B) (FlatQuant).

Applied as a reshape and two small matrix products, never as an n x n matrix. A [shards, left, left] and B [shards, right,
right] carry input shards as a batch axis: shard s of x has its own pair, which equals a block-diagonal transform. One side
may be shared by all shards ([1, ., .]). B may be None: no mixing within the rows of X.

The readers of x' hold W' = W (A ⊗ B)⁻ᵀ, which is the same operation with A⁻ᵀ and B⁻ᵀ: x' W'ᵀ = x Wᵀ.
"""

from collections.abc import Callable

from torch import Tensor

Cast = Callable[[Tensor], Tensor]


def apply(x: Tensor, left: Tensor, right: Tensor | None = None, casts: tuple[Cast, Cast] | None = None) -> Tensor:
    """x (A ⊗ B) for x [..., n], in the dtype of `x`. `casts`: what the results of both products are rounded by.

    Raises ValueError where the sides do not fit n.
    """
    shards = max(left.shape[0], 1 if right is None else right.shape[0])
    rows = left.shape[-1]
    if x.shape[-1] % (shards * rows) or (right is not None and x.shape[-1] != shards * rows * right.shape[-1]):
        sides = f"{rows}" if right is None else f"{rows} x {right.shape[-1]}"
        raise ValueError(f"{shards} shards of a Kronecker transform {sides} do not fit {x.shape[-1]} channels")
    matrices = x.unflatten(-1, (shards, rows, -1))
    if right is not None:
        matrices = matrices @ (right[0] if right.shape[0] == 1 else right)
    if casts is None:
        return (left.mT @ matrices).flatten(-3)
    return casts[1](left.mT @ casts[0](matrices)).flatten(-3)


def apply_to_gram(gram: Tensor, left: Tensor, right: Tensor | None = None) -> Tensor:
    """Gram matrix [n, n] of the transformed rows from that of the rows: (A ⊗ B)ᵀ G (A ⊗ B)."""
    return apply(apply(gram, left, right).mT, left, right).mT
