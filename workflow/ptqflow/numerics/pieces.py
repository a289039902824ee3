"""How much of a large tensor is worked on at once, so that buffers of that size bound the memory."""

from torch import Tensor

_ON_CPU = 1 << 20  # float32 numbers: buffers of 4 MB, which stay in a processor's cache
_ELSEWHERE = 1 << 26  # 256 MB: each operation is a launch, which takes as long as it does on a million numbers


def at_once(x: Tensor) -> int:
    """Float32 numbers of a buffer, on the device of `x`."""
    return _ON_CPU if x.device.type == "cpu" else _ELSEWHERE
