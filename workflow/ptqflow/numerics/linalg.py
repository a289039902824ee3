"""Factorization of damped Hessians, by a procedure that cannot fail silently."""

from typing import NamedTuple

import torch
from torch import Tensor

_HALVED = 256  # larger triangular matrices are inverted by halves
_LARGEST_DAMPING = 1.0
_RESIDUAL = 1e-2  # of the factor applied to probe vectors; float32 factors of ill-conditioned matrices exceed it
_PROBES = 8


class Factor(NamedTuple):
    """`upper` [n, n] float32 with upperᵀ upper = (H + damping * mean(diag H) * I)⁻¹."""

    upper: Tensor
    damping: float

    @property
    def condition_number(self) -> float:
        """Of the damped matrix, at least: squared ratio of the factor's extreme diagonal entries."""
        entries = self.upper.diagonal()
        return float((entries.max() / entries.min()).double().square())


def inverse_cholesky(hessian: Tensor, dampening_frac: float) -> Factor | None:
    """Upper Cholesky factor of the inverse of a damped Hessian [n, n] (symmetric, float32).

    Each attempt starts from the pristine matrix. Damping starts at `dampening_frac` and doubles up to 1; each level is tried in
    float32 on the matrix's device, then in float64 on the CPU. A factor is accepted when it is finite and reproduces the
    inverse on probe vectors. None when no level succeeds (not finite, or strongly indefinite): the caller records a fallback.
    """
    if not bool(torch.isfinite(hessian).all()):
        return None
    mean = hessian.diagonal().double().mean().item()
    damping = dampening_frac
    while damping <= max(_LARGEST_DAMPING, dampening_frac):
        for in_float64 in (False, True):
            damped = hessian.cpu().double() if in_float64 else hessian.clone()
            damped.diagonal().add_(damping * mean)
            upper = _upper_of_inverse(damped)
            if upper is not None:
                return Factor(upper.to(device=hessian.device, dtype=torch.float32), damping)
        damping *= 2
    return None


def _upper_of_inverse(damped: Tensor) -> Tensor | None:
    """U with UᵀU = H⁻¹, or None.

    With the order of rows and columns reversed, H = L Lᵀ; reversed back, H = R Rᵀ with R upper, so U = R⁻¹: one factorization
    and one triangular inverse, and no inverse of H itself.
    """
    factor, info = torch.linalg.cholesky_ex(damped.flip(0, 1))
    if int(info) != 0:
        return None
    factor = factor.flip(0, 1)  # under the same name, for memory: the other is as large as the Hessian
    upper = _invert_upper(factor)
    del factor
    probes = torch.randn(damped.shape[0], _PROBES, generator=torch.Generator().manual_seed(0)).to(damped)
    residual = (upper.T @ (upper @ (damped @ probes)) - probes).norm() / probes.norm()
    return upper if bool(torch.isfinite(upper).all()) and residual.item() < _RESIDUAL else None


def _invert_upper(upper: Tensor) -> Tensor:
    """Inverse of an upper triangular matrix [n, n], by halves: [[A, B], [0, C]]⁻¹ = [[A⁻¹, -A⁻¹ B C⁻¹], [0, C⁻¹]].

    A triangular solve against the identity would do three times the arithmetic.
    """
    n = len(upper)
    if n <= _HALVED:
        return torch.linalg.solve_triangular(upper, torch.eye(n, dtype=upper.dtype, device=upper.device), upper=True)
    half = n // 2
    inverse = torch.zeros_like(upper)
    inverse[:half, :half] = _invert_upper(upper[:half, :half])
    inverse[half:, half:] = _invert_upper(upper[half:, half:])
    inverse[:half, half:] = -(inverse[:half, :half] @ (upper[:half, half:] @ inverse[half:, half:]))
    return inverse
