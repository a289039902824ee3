"""Named departures from right arithmetic, each of which some device, or version of its software, is known or suspected to have.

Numbers under a switch are those of this machine with one primitive replaced; they are no device's numbers, and never called so.
"""

import torch
from torch import Tensor

from ptqflow.numerics.inverse import Inverse


def without_gradient(matrix: Tensor) -> Tensor:
    """E0: P⁻¹ as a constant, as `Tensor.inverse` of torch_npu up to 7.1.0 returns it (no gradient, and no warning)."""
    return torch.linalg.inv_ex(matrix.detach().cpu().double())[0].to(matrix)


def in_float32(matrix: Tensor) -> Tensor:
    """E2: P⁻¹ computed in float32, its gradient too, as where float64 silently becomes float32."""
    return torch.linalg.inv_ex(matrix.float())[0].to(matrix)


SWITCHES: dict[str, Inverse] = {"E0": without_gradient, "E2": in_float32}
