"""What a device reaches, measured: products of matrices and copies. No data sheet knows the machine that a job is on."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ptqflow.devices.device import Device
from ptqflow.devices.products import int8_kernel
from ptqflow.numerics.products import float32_matmul

_REPETITIONS = 5


@dataclass(frozen=True)
class Roofline:
    """FLOP/s of a product of square matrices in the device's compute dtype, and bytes/s of a copy (read and written)."""

    flops: float
    bandwidth: float

    def seconds(self, flops: float, moved: float) -> float:
        """The least time for `flops` operations on `moved` bytes: both at once, each at its measured rate."""
        return max(flops / self.flops, moved / self.bandwidth)


def measured(device: Device) -> Roofline:
    """The best of a few runs: 1024 columns and 256 MiB on a CPU (below a second), 8192 and 1 GiB elsewhere."""
    size, copied = (1024, 1 << 28) if device.module is None else (8192, 1 << 30)
    where, dtype = device.torch_device, device.compute_dtype
    left, right = (torch.randn(size, size, generator=torch.Generator().manual_seed(i)).to(where, dtype) for i in range(2))
    source = torch.zeros(copied, dtype=torch.uint8, device=where)
    target = torch.ones_like(source)
    with float32_matmul():
        product = _best(device, lambda: left @ right)
    return Roofline(2 * size**3 / product, 2 * copied / _best(device, lambda: target.copy_(source)))


def int8_rate(device: Device) -> float:
    """Operations per second of the product of integers that this device's integer linears take, of matrices as in `measured`."""
    size = 1024 if device.module is None else 8192
    ones = [torch.ones(size, size, dtype=torch.int8, device=device.torch_device) for _ in range(2)]
    kernel = int8_kernel(device.torch_device)
    return 2 * size**3 / _best(device, lambda: kernel.run(*ones))


def _best(device: Device, action: Callable[[], Any]) -> float:
    times = []
    for _ in range(_REPETITIONS):
        device.synchronize()
        start = time.perf_counter()
        action()
        device.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)
