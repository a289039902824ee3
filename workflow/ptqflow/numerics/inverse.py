"""Matrix inverse with an explicit backward pass, and the check that gradients really flow through it.

FlatQuant trains through P⁻¹. Some backends' own `inverse` returns a tensor without gradient, with no warning: losses then
fall at first and oscillate later, at 4 bits but hardly at 8. So no vendor kernel is trusted: the forward pass is float64 on
the CPU, and the backward pass is two matrix products.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Inverse = Callable[[Tensor], Tensor]
_STEP = 1e-2  # of finite differences


class _Inverse(torch.autograd.Function):
    """P⁻¹ [..., n, n]; with G the gradient of the result, the gradient of P is -P⁻ᵀ G P⁻ᵀ."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        result, _ = torch.linalg.inv_ex(matrix.detach().cpu().double())  # a singular matrix gives inf or nan, not an exception
        result = result.to(device=matrix.device, dtype=matrix.dtype)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return -(result.mT @ gradient @ result.mT)


def inverse(matrix: Tensor) -> Tensor:
    """P⁻¹ of [..., n, n], in the dtype and on the device of `matrix`, differentiable once.

    A singular matrix gives values that are not finite, for the caller's guard to see.
    """
    result: Tensor = _Inverse.apply(matrix)
    return result


def gradient_error(function: Inverse, device: torch.device) -> float:
    """Relative error of the gradient that autograd sends through `function` (an inverse), against finite differences.

    Runs in float32 on `device`, as training does; central differences of a fixed random loss in random directions, the function
    values in float64. 1.0 when the gradient is lost. A right gradient stays below 1e-3.
    """
    generator, n = torch.Generator().manual_seed(0), 6
    matrix = torch.eye(n) + 0.1 * torch.randn(n, n, generator=generator)
    weights, directions = torch.randn(n, n, generator=generator), torch.randn(8, n, n, generator=generator).double()
    leaf = matrix.to(device).requires_grad_(True)
    with torch.enable_grad():
        loss = (function(leaf) * weights.to(device)).sum()
    gradient = torch.autograd.grad(loss, leaf)[0].cpu().double() if loss.requires_grad else torch.zeros(n, n).double()

    def losses(at: Tensor) -> Tensor:
        return (torch.linalg.inv(at) * weights.double()).sum((1, 2))

    def slopes(step: float) -> Tensor:
        return (losses(matrix.double() + step * directions) - losses(matrix.double() - step * directions)) / (2 * step)

    exact = (4 * slopes(_STEP / 2) - slopes(_STEP)) / 3  # Richardson: the error of central differences is of order step²
    found = (directions * gradient).sum((1, 2))
    return ((found - exact).norm() / exact.norm()).item()
