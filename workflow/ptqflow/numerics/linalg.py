"""Factorization of damped Hessians, by a procedure that cannot fail silently."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_LARGEST_DAMPING = 1.0
_RESIDUAL = 1e-2  # of the factor's solution for probe vectors; float32 factors of ill-conditioned matrices exceed it
_PROBES = 8


class Factor(NamedTuple):
    """`lower` [n, n] float32, lower triangular: lower lowerᵀ = H + added * I, where added = damping * mean(diag H)."""

    lower: Tensor
    damping: float
    added: float

    @property
    def condition_number(self) -> float:
        """Of the damped matrix, at least: squared ratio of the factor's extreme diagonal entries."""
        entries = self.lower.diagonal()
        return float((entries.max() / entries.min()).double().square())


def damped_cholesky(hessian: Tensor, dampening_frac: float) -> Factor | None:
    """Cholesky factor of a damped Hessian [n, n] (symmetric, float32), which is left as it was.

    Each attempt starts from the pristine matrix. Damping starts at `dampening_frac` and doubles up to 1; each level is tried in
    float32 on the matrix's device, then in float64 on the CPU. A factor is accepted when it is finite and solves for probe
    vectors. None when no level succeeds (not finite, or strongly indefinite): the caller records a fallback.
    """
    pristine = hessian.diagonal().clone()
    mean = pristine.double().mean().item()
    if not math.isfinite(mean):
        return None
    damping = dampening_frac
    while damping <= max(_LARGEST_DAMPING, dampening_frac):
        for in_float64 in (False, True):
            damped = hessian.cpu().double() if in_float64 else hessian
            damped.diagonal().add_(damping * mean)
            lower = _cholesky(damped)
            if not in_float64:
                hessian.diagonal().copy_(pristine)
            if lower is not None:
                return Factor(lower.to(device=hessian.device, dtype=torch.float32), damping, damping * mean)
        damping *= 2
    return None


def _cholesky(damped: Tensor) -> Tensor | None:
    """L with L Lᵀ = H, or None where that fails or (L Lᵀ)⁻¹ H x is not x."""
    lower, info = torch.linalg.cholesky_ex(damped)
    if int(info) != 0:
        return None
    probes = torch.randn(len(damped), _PROBES, generator=torch.Generator().manual_seed(0)).to(damped)
    half_solved = torch.linalg.solve_triangular(lower, damped @ probes, upper=False)
    residual = (torch.linalg.solve_triangular(lower.mT, half_solved, upper=True) - probes).norm() / probes.norm()
    return lower if residual.item() < _RESIDUAL else None  # a comparison with NaN is false
