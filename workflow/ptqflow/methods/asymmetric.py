"""Asymmetric calibration (GPTAQ, Li et al., 2025; Qronos, Zhang et al., 2025): weights make up for the error of earlier layers.

The input of a linear is X̂ [tokens, in] where quantized layers made it and X where the float model did. Its output is to be X Wᵀ
all the same, so what is rounded, by its error under X̂, is not W but the weight that comes nearest to that:

    argmin |X̂ W*ᵀ - X Wᵀ|² + λ |W* - W|²  =  W + W [(H + λ I)⁻¹ X̂ᵀ (X - X̂)]ᵀ,  H = X̂ᵀX̂

With λ = 0 rounding W* under H is rounding for |X̂ W'ᵀ - X Wᵀ|²: the two differ by a constant. The published code of GPTAQ adds a
quarter of the same term, column by column (`alpha`), instead of λ.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ptqflow.numerics.linalg import damped_cholesky
from ptqflow.numerics.products import multiply


def corrected_weights(weights: Sequence[Tensor], gram: Tensor, cross: Tensor, ridge: float) -> list[Tensor] | None:
    """W* [out, in] of weights W that read the same input, from its H = X̂ᵀX̂ and X̂ᵀ(X - X̂), both [in, in] (float32).

    `ridge`: λ as a fraction of the mean of diag H (more where H cannot be factored with so little). None where it cannot at all.
    """
    factor = damped_cholesky(gram.clone(), ridge)
    if factor is None:
        return None
    lower, inputs_differ = factor.lower, cross.T.contiguous()
    return [weight + torch.cholesky_solve(multiply(weight, inputs_differ).T, lower).T for weight in weights]
