"""Where the time of a phase goes, by part of the linears, and which kernels multiplied: read from torch's profiler."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ptqflow.devices.device import Device
from ptqflow.engines.protocol import Part, Phase
from ptqflow.modeling.scopes import PREFIX

_LINEAR = "aten::linear"  # of linears that are not quantized


def parts(device: Device, phase: Phase, action: Callable[[], Any]) -> list[Part]:
    """Seconds of `action` by part; their sum, with `other` (attention, norms, choosing tokens), is its wall time.

    A profiled run is slower than a timed one: shares are of use, not seconds. On an accelerator a part's seconds are those that
    the host spends on it, and kernels waited for at the end are `other`.
    """
    whole_run = torch.profiler.record_function(PREFIX + "all")
    with torch.profiler.profile(activities=device.profiler_activities()) as profiler, whole_run:
        action()
        device.synchronize()
    microseconds: dict[str, float] = defaultdict(float)
    kernels: dict[str, set[str]] = defaultdict(set)
    events = profiler.events() or []
    for event in events:
        if (part := _part(event)) is not None and not any(_part(above) not in (None, "all") for above in _above(event)):
            microseconds[part] += event.cpu_time_total
            kernels[part] |= set(_products(event))
    whole = microseconds.pop("all")
    microseconds["other"] = whole - sum(microseconds.values())
    return [Part(phase, part, time / 1e6, tuple(sorted(kernels[part]))) for part, time in microseconds.items()]


def _part(event: Any) -> str | None:
    if event.name == _LINEAR:
        return "product"
    return event.name.removeprefix(PREFIX) if event.name.startswith(PREFIX) else None


def _above(event: Any) -> Iterator[Any]:
    while (event := event.cpu_parent) is not None:
        yield event


def _products(event: Any) -> Iterator[str]:
    """Products of matrices within an event: operators by name, and on an accelerator its kernels."""
    if "::" in event.name and event.name.endswith(("mm", "mm_for_cpu", "matmul")):
        yield event.name
        yield from (kernel.name for kernel in event.kernels)
    for below in event.cpu_children:
        yield from _products(below)
