"""Randomized Hadamard rotation (QuaRot, Ashkboos et al., 2024, section 3.1): Q = diag(s) H / √n, s of random signs, H Hᵀ = n I.

H is a product of Sylvester's matrices of 2 and one of Paley's, which gives all widths 2^k, 12·2^k, 20·2^k, 28·2^k and more. Where
neither construction reaches the width, Q is a random orthogonal matrix.
"""

import torch
from torch import Tensor

from ptqflow.methods.rotations.hadamard_settings import HadamardRotation
from ptqflow.numerics.linalg import random_orthogonal

_SYLVESTER = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)


def rotation(width: int, settings: HadamardRotation) -> Tensor:
    """Q [width, width], float64, orthogonal; states x become x Q."""
    random = torch.Generator().manual_seed(settings.seed)
    if (found := hadamard(width)) is not None:
        signs = torch.randint(2, (width, 1), generator=random).double() * 2 - 1
        return signs * found / width**0.5
    return random_orthogonal(width, random)


def hadamard(width: int) -> Tensor | None:
    """A matrix [width, width] of ones and minus ones with orthogonal rows (float64), or None where no construction fits."""
    if (found := _base(width)) is not None or width % 2:
        return found
    half = hadamard(width // 2)
    return None if half is None else torch.kron(half, _SYLVESTER)


def _base(n: int) -> Tensor | None:
    """The matrices of size 1 and Paley's two: of size q + 1, q a prime of 4 m + 3, and of 2 (q + 1), q a prime of 4 m + 1."""
    if n == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if n % 4 == 0 and _is_prime(q := n - 1):
        return torch.eye(n, dtype=torch.float64) + _bordered(q, -1.0)
    if n % 4 == 0 and (q := n // 2 - 1) % 4 == 1 and _is_prime(q):
        diagonal = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(_bordered(q, 1.0), _SYLVESTER) + torch.kron(torch.eye(q + 1, dtype=torch.float64), diagonal)
    return None


def _bordered(q: int, below: float) -> Tensor:
    """Paley's conference matrix [q + 1, q + 1]: χ(i - j), the quadratic character of q, under a row of 1 and beside `below`."""
    residues = {i * i % q for i in range(1, q)}
    character = torch.tensor([0.0] + [1.0 if i in residues else -1.0 for i in range(1, q)], dtype=torch.float64)
    steps = torch.arange(q)
    matrix = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    matrix[0, 1:], matrix[1:, 0] = 1.0, below
    matrix[1:, 1:] = character[(steps.unsqueeze(1) - steps) % q]
    return matrix


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % i for i in range(2, int(n**0.5) + 1))
