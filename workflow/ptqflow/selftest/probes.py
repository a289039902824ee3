"""All probes, run on one device."""

from collections.abc import Container, Iterator
from typing import Any

from ptqflow.devices.device import Device
from ptqflow.progress import progress
from ptqflow.recipes import Reliance
from ptqflow.selftest import arithmetic, gradients
from ptqflow.selftest.probe import Finding, Probe

PROBES = [*arithmetic.PROBES, *gradients.PROBES]


def everything(device: Device, wiring_only: bool = False) -> Iterator[dict[str, Any]]:
    """Rows of all probes. `wiring_only`: of their wirings; those that have none are rows that say they were not run."""
    yield _row(device, arithmetic.UNASKED, wiring_only)
    with progress("selftest", len(PROBES), "probes") as bar, device.true_float32():
        for probe in PROBES:
            yield _row(device, probe, wiring_only)
            bar.update()


def probed(device: Device, relied: Container[Reliance]) -> Iterator[dict[str, Any]]:
    """Rows of the probes that these rely on."""
    with device.true_float32():
        yield from (_row(device, probe, False) for probe in PROBES if probe.relied_on_by in relied)


def _row(device: Device, probe: Probe, wiring_only: bool) -> dict[str, Any]:
    found: Finding | None = None
    measure = probe.wiring if wiring_only else probe.measure
    if measure is None:
        passed, detail = None, "not run: only the wiring was asked for, and this is a question of numbers"
    else:
        try:
            found = measure(device.torch_device)
            passed, detail = found.passed, found.detail
        except (RuntimeError, NotImplementedError) as error:  # a device that cannot do it at all
            passed, detail = False, " ".join(str(error).split())[:300]
    return {
        "platform": device.platform,
        "device": device.name,
        "probe": probe.name,
        "relied_on_by": probe.relied_on_by,
        "value": found.value if found else None,
        "limit": found.limit if found else None,
        "passed": passed,
        "detail": detail,
    }
