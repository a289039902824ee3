"""What a linear asks of a device's integer kernels."""

from typing import NamedTuple

import torch


class Case(NamedTuple):
    """What a linear asks for. `sides`: of FlatQuant's transform; `static`: inputs have one scale, and `shifted` a zero point."""

    weight_bits: int
    input_bits: int
    out: int
    columns: int
    groups: int
    symmetric: bool
    static: bool
    shifted: bool
    clipped: bool
    sides: tuple[int, int] | None
    dtype: torch.dtype
