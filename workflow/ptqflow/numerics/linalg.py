"""Random orthogonal matrices, and the factorization of damped Hessians, by a procedure that cannot fail silently."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ptqflow.numerics.gram import mirror
from ptqflow.numerics.products import float32_matmul

_LARGEST_DAMPING = 1.0
_RESIDUAL = 1e-2  # of the factor's solution for probe vectors; float32 factors of ill-conditioned matrices exceed it
_PROBES = 8
_COLUMNS = 256  # factored at once


class Factor(NamedTuple):
    """A lower triangular L [n, n] with L Lᵀ = H + added * I, where added = damping * mean(diag H).

    `lower` [n, n] float32 holds L; what is above its diagonal is not zero and means nothing.
    """

    lower: Tensor
    damping: float
    added: float

    @property
    def condition_number(self) -> float:
        """Of the damped matrix, at least: squared ratio of the factor's extreme diagonal entries."""
        entries = self.lower.diagonal()
        return float((entries.max() / entries.min()).double().square())


def random_orthogonal(n: int, generator: torch.Generator) -> Tensor:
    """A random rotation or reflection [n, n] in float64, uniform (QR with the signs of R's diagonal; Mezzadri, 2007)."""
    q, r = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def damped_cholesky(hessian: Tensor, dampening_frac: float) -> Factor | None:
    """Cholesky factor of a damped Hessian [n, n] (symmetric, float32), which is used up: the factor takes its place.

    Each attempt starts from the pristine matrix. Damping starts at `dampening_frac` and doubles up to 1; each level is tried in
    float32 on the matrix's device, then in float64 on the CPU. A factor is accepted when it is finite and solves for probe
    vectors. None when no level succeeds (not finite, or strongly indefinite), and the matrix is as it was: the caller records a
    fallback.
    """
    pristine = hessian.diagonal().clone()
    mean = pristine.double().mean().item()
    if not math.isfinite(mean):
        return None
    damping = dampening_frac
    while damping <= max(_LARGEST_DAMPING, dampening_frac):
        for in_float64 in (False, True):
            matrix = hessian.cpu().double() if in_float64 else hessian
            matrix.diagonal().add_(damping * mean)
            if _factor_(matrix):
                return Factor(matrix.to(device=hessian.device, dtype=torch.float32), damping, damping * mean)
            if not in_float64:  # what is above the diagonal was left alone
                mirror(hessian.T)
                hessian.diagonal().copy_(pristine)
        damping *= 2
    return None


def _factor_(matrix: Tensor) -> bool:
    """Replace the lower half of H by L, L Lᵀ = H; whether it went well and (L Lᵀ)⁻¹ H x is x. The upper half stays as it is."""
    probes = torch.randn(len(matrix), _PROBES, generator=torch.Generator().manual_seed(0)).to(matrix)
    image = matrix @ probes
    for start in range(0, len(matrix), _COLUMNS):
        here, below = slice(start, start + _COLUMNS), slice(start + _COLUMNS, None)
        with float32_matmul():
            panel = torch.addmm(matrix[start:, here], matrix[start:, :start], matrix[here, :start].T, alpha=-1)
        corner, info = torch.linalg.cholesky_ex(panel[:_COLUMNS])
        if int(info) != 0:
            return False
        matrix[here, here] = corner + matrix[here, here].triu(1)
        matrix[below, here] = torch.linalg.solve_triangular(corner.T, panel[_COLUMNS:], upper=True, left=False)
    half_solved = torch.linalg.solve_triangular(matrix, image, upper=False)
    residual = (torch.linalg.solve_triangular(matrix.mT, half_solved, upper=True) - probes).norm() / probes.norm()
    return residual.item() < _RESIDUAL  # a comparison with NaN is false
