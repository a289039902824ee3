"""The two sides of a Kronecker product. Pure integers, import-light (no torch)."""

from math import isqrt

LARGEST_ASPECT = 16  # a longer side costs as much as the dense matrix that the product replaces


def kronecker_split(n: int) -> tuple[int, int]:
    """(left, right) with left * right = n, left <= right, as near to square as n's divisors allow.

    FlatQuant and vllm-ascend take the smallest a >= √n with a² - n a square b², which gives a - b and a + b: the nearest to
    square of the splits into two even or two odd sides. That one is taken where there is one (never for n = 4 k + 2), found by
    trial division, so this ends for every n. Raises ValueError where no split has right <= 16 left (primes, most 2 * prime).
    """
    if n < 1:
        raise ValueError(f"{n} channels have no Kronecker split; use at least 1")
    splits = [(left, n // left) for left in range(isqrt(n), 0, -1) if n % left == 0]
    near = [(left, right) for left, right in splits if right <= LARGEST_ASPECT * left]
    if not near:
        left, right = splits[0]
        raise ValueError(f"{n} channels split into {left} x {right} at best, too far from square for a Kronecker transform")
    return next(((left, right) for left, right in near if (left + right) % 2 == 0), near[0])
