"""Float32 products of many rows with one matrix, at the CPU's full speed.

On some CPUs torch's own float32 product (MKL) reaches half the speed of oneDNN's, which torch has, too, behind `to_mkldnn`: 190
and 410 GFLOP/s on two cores of an AMD Zen 5. Both are float32 throughout. Other devices and dtypes use torch's own product.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

# Rows go by a power of two, the last ones overlapping: oneDNN compiles, and keeps in some MB, a product for each new shape.
_FEWEST_ROWS = 256  # at once, if there are so many
_ELEMENTS_AT_ONCE = 1 << 18


def prepare(weight: Tensor) -> Tensor:
    """A matrix [m, n] as the second operand of `multiply`; not for anything else."""
    able = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    return weight.to_mkldnn() if able and weight.numel() else weight


def multiply(rows: Tensor, prepared: Tensor) -> Tensor:
    """rows @ weightᵀ [k, m] of rows [k, n] and a prepared weight [m, n]."""
    if not prepared.is_mkldnn:
        return linear(rows, prepared)
    count, columns = rows.shape
    size = min(max(_FEWEST_ROWS, _ELEMENTS_AT_ONCE // columns), 1 << count.bit_length() >> 1)
    product = rows.new_empty(count, len(prepared))
    for start in range(0, count, size or 1):
        part = slice(start, start + size) if start + size <= count else slice(count - size, count)
        product[part] = linear(rows[part].to_mkldnn(), prepared).to_dense()
    return product
