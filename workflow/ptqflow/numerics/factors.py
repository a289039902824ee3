"""The two sides of a Kronecker product. Pure integers, import-light (no torch)."""

from math import isqrt

LARGEST_ASPECT = 16  # a longer side costs as much as the dense matrix that the product replaces


def kronecker_split(n: int) -> tuple[int, int]:
    """(left, right) with left * right = n, left <= right, as near to square as n's divisors allow.

    This is the split of FlatQuant (smallest a with a² - n a square), found by trial division, so it ends for every n. Raises
    ValueError where n has no split with right <= 16 left (primes, and most 2 * prime).
    """
    if n < 1:
        raise ValueError(f"{n} channels have no Kronecker split; use at least 1")
    left = next(a for a in range(isqrt(n), 0, -1) if n % a == 0)
    right = n // left
    if right > LARGEST_ASPECT * left:
        raise ValueError(f"{n} channels split into {left} x {right} at best, too far from square for a Kronecker transform")
    return left, right
