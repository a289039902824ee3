"""A probe of a device: one number of what it computes, held against a limit.

Whatever ran on a device is as good as the device's arithmetic. Backends have dropped gradients without a word, multiplied float32
in 11 bits, and turned float64 into float32. So each thing that a recipe relies on is measured on the device itself, against the
CPU's float64, before anything is calibrated there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ptqflow.recipes import Reliance


class Finding(NamedTuple):
    """What a probe measured, what it may be at most, and what that says in words."""

    value: float
    limit: float
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value is within the limit; one that is no number is not."""
        return self.value <= self.limit


@dataclass(frozen=True)
class Probe:
    """`measure(device)` -> Finding. `relied_on_by` None: on record, and no recipe relies on it.

    `wiring(device)` asks how autograd is wired, or which kernels and types there are, and for no number, so that a device whose
    kernels compute nothing answers, too; None: without numbers nothing can be said.
    """

    name: str
    measure: Callable[[torch.device], Finding]
    relied_on_by: Reliance | None = None
    wiring: Callable[[torch.device], Finding] | None = None


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float32 on the CPU, the same everywhere."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact| in float64, Frobenius norms."""
    exact = exact.detach().cpu().double()
    return ((found.detach().cpu().double() - exact).norm() / exact.norm()).item()
