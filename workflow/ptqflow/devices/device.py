"""The one room that knows which device it is on: selection, precision policy, memory, synchronization."""

import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

import psutil
import torch
from torch.profiler import ProfilerActivity

from ptqflow.devices.visible import slots
from ptqflow.errors import ConfigError
from ptqflow.numerics.products import bfloat16_matmul, float32_matmul
from ptqflow.platforms import PLATFORMS as PLATFORMS

_ROOM = 8  # beside the states there may be targets, the float model's states, and a block


@dataclass(frozen=True)
class Device:
    """A platform's compute device. `compute_dtype` is what models run in; numerics use float32 or better regardless."""

    platform: str
    torch_device: torch.device
    compute_dtype: torch.dtype

    @property
    def module(self) -> ModuleType | Any | None:
        """`torch.cuda` or `torch.npu`; None on the CPU."""
        return None if self.torch_device.type == "cpu" else getattr(torch, self.torch_device.type)

    @property
    def name(self) -> str:
        """Human-readable name of the device, for provenance."""
        return "cpu" if self.module is None else str(self.module.get_device_name(self.torch_device))

    def synchronize(self) -> None:
        """Wait until all submitted work is done, so that clocks are true."""
        if self.module is not None:
            self.module.synchronize()

    def reset_peak(self) -> None:
        """Start a new measurement of peak memory (the CPU's cannot be reset: it is the process's)."""
        if self.module is not None:
            self.module.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        """Peak bytes allocated on the device since `reset_peak`; on the CPU, the process's peak resident size."""
        if self.module is not None:
            return int(self.module.max_memory_allocated())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def profiler_activities(self) -> list[ProfilerActivity]:
        """What torch's profiler records: the host, and CUDA's kernels (an NPU's need a profiler of torch_npu's own)."""
        return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.torch_device.type == "cuda" else [])]

    @property
    def float64_device(self) -> torch.device:
        """Where what wants float64 is computed: here, or on the CPU where this device has none."""
        return self.torch_device if self.torch_device.type == "cuda" else torch.device("cpu")

    def free_bytes(self) -> int:
        """Bytes of the device's memory that nobody holds; on the CPU, of main memory."""
        return psutil.virtual_memory().available if self.module is None else int(self.module.mem_get_info()[0])

    def near(self, states: torch.Tensor) -> torch.Tensor:
        """Calibration states: on the device, where each job that shares it has room for them `_ROOM` times; else as given."""
        fits = _ROOM * slots() * states.nbytes <= self.free_bytes()
        return states.to(self.torch_device) if fits else states

    def readings(self) -> dict[str, float]:
        """Clock in MHz and temperature in degrees Celsius, as far as the machine tells: speeds depend on both."""
        found: dict[str, float | None] = {}
        if self.module is None:
            frequency = psutil.cpu_freq()
            sensors: dict[str, Any] = getattr(psutil, "sensors_temperatures", dict)()  # Linux alone
            degrees = [sensor.current for part in sensors.values() for sensor in part]
            found = {"clock_mhz": frequency and frequency.current, "celsius": max(degrees, default=None)}
        elif self.torch_device.type == "cuda":
            try:  # by a library of the vendor's, which may be missing
                found = {"clock_mhz": self.module.clock_rate(), "celsius": self.module.temperature()}
            except (ModuleNotFoundError, RuntimeError):
                found = {}
        return {name: float(value) for name, value in found.items() if value}

    @property
    def multiplies_bfloat16(self) -> bool:
        """Whether this is a CPU with instructions for products of bfloat16 numbers. Results depend on it: it goes on record."""
        able = torch.cpu.get_capabilities() if self.module is None else {}
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))

    def bfloat16_products(self, weights: Iterable[torch.Tensor]) -> bool:
        """Whether the CPU can multiply in bfloat16 and all `weights` are stored so, thus lose nothing by it."""
        return self.multiplies_bfloat16 and {weight.dtype for weight in weights} == {torch.bfloat16}

    def parameter_dtype(self, weights: Iterable[torch.Tensor]) -> torch.dtype:
        """The dtype of a block's parameters for `forward_precision`."""
        return torch.bfloat16 if self.bfloat16_products(weights) else self.compute_dtype

    @contextmanager
    def forward_precision(self, weights: Iterable[torch.Tensor]) -> Iterator[None]:
        """Precision of a block's forward pass, given its stored weights: `compute_dtype`, but on CPUs with `bfloat16_products`.

        There linears and attention multiply in bfloat16, as every accelerator does with such a model, several times faster than
        in float32; norms and the residual stream stay float32.
        """
        with torch.autocast("cpu", torch.bfloat16) if self.bfloat16_products(weights) else float32_matmul():
            yield

    @contextmanager
    def gram_precision(self, of_bfloat16: bool) -> Iterator[None]:
        """Precision of XᵀX of a linear's inputs X: float32. `of_bfloat16`: the linear sees bfloat16 numbers.

        Products of these are exact in float32, and are summed in float32, by faster units: a CPU's for bfloat16, an accelerator's
        for TF32 or HF32, which hold them, where it says that they do.
        """
        if self.module is not None:
            with self.matmul_precision("high" if of_bfloat16 and _multiplies_exactly(self) else "highest"):
                yield
            return
        matmul = bfloat16_matmul if of_bfloat16 else float32_matmul
        with torch.autocast("cpu", enabled=False), matmul():
            yield

    @contextmanager
    def true_float32(self) -> Iterator[None]:
        """Float32 matrix products in float32: TF32 (cuda) and HF32 (npu) off, for Hessians, inverses and identity checks."""
        if self.torch_device.type == "npu":
            with _hf32(allowed=False):
                yield
            return
        before_precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before_precision)

    @contextmanager
    def matmul_precision(self, precision: Literal["highest", "high"]) -> Iterator[None]:
        """Within `true_float32`, products of float32 matrices as torch calls it: as there, or with operands rounded to TF32
        (cuda) or HF32 (npu). A CPU has neither: there both are one.
        """
        if precision == "highest" or self.module is None:
            yield
        elif self.torch_device.type == "npu":
            with _hf32(allowed=True):
                yield
        else:
            of_host: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009 (not in torch's type stubs)
            before = of_host.fp32_precision
            torch.set_float32_matmul_precision(precision)  # of all devices
            of_host.fp32_precision = before
            try:
                yield
            finally:
                torch.set_float32_matmul_precision("highest")
                of_host.fp32_precision = before


@cache
def _multiplies_exactly(device: Device) -> bool:
    """Whether a `high` product of bfloat16 numbers is exact, where float32 can hold it."""
    x = torch.randint(-127, 128, (512, 512), generator=torch.Generator().manual_seed(0)).float()  # sums below 2^23
    with device.matmul_precision("high"):
        found = x.to(device.torch_device).T @ x.to(device.torch_device)
    return torch.equal(found.cpu().double(), x.double().T @ x.double())


@contextmanager
def _hf32(allowed: bool) -> Iterator[None]:
    """Whether an NPU may round operands of float32 products."""
    flags = import_module("torch_npu").npu.matmul
    before = flags.allow_hf32
    flags.allow_hf32 = allowed
    try:
        yield
    finally:
        flags.allow_hf32 = before


def select(platform: str) -> Device:
    """The device of `platform` (cpu, gpu, ascend). Raises ConfigError when it is not there: never falls back silently."""
    if platform not in PLATFORMS:
        raise ConfigError(f"platform {platform!r} is unknown; use one of {', '.join(PLATFORMS)}")
    kind = PLATFORMS[platform]
    if kind == "cpu":
        return Device(platform, torch.device("cpu"), torch.float32)
    if kind == "npu":
        try:
            import_module("torch_npu")
        except ImportError as error:
            raise ConfigError(f"platform ascend needs torch_npu ({error}); install it or use --profile local") from None
    module = getattr(torch, kind, None)
    if module is None or not module.is_available():
        raise ConfigError(f"platform {platform}: no {kind} device is available; use --profile local, or run where there is one")
    return Device(platform, torch.device(kind, 0), torch.bfloat16)
