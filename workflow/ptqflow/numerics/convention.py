"""Integer grids as data: how many bits, and by whose convention scale and zero point follow from a range. Import-light."""

from typing import Literal, NamedTuple

Convention = Literal["flatquant", "compressed-tensors", "awq"]


class Grid(NamedTuple):
    """An integer grid of `num_bits` b. Symmetric: signed integers and no zero point; asymmetric: unsigned. See `numerics.grid`.

    convention          symmetric scale      asymmetric range                     zero point from
    flatquant           max|x| / (2^(b-1)-1)  widened to hold 0                    the stored scale
    compressed-tensors  max|x| / ((2^b-1)/2)  widened to hold 0                    the scale before it is stored
    awq                 as flatquant          [min, max]; zero point clamped to it  the stored scale

    `flatquant` is also that of Quantized-Reasoning-Models, and the symmetric scale of `compressed-tensors` that of the GPTQ
    reference. `compressed-tensors` rounds x / s + z, the others x / s; ties of its symmetric grid are its own, too
    (`numerics.grid.unclamped`). `awq` (llm-awq) differs from `flatquant` for groups of one sign alone: they saturate.
    """

    num_bits: int
    symmetric: bool
    convention: Convention = "flatquant"
