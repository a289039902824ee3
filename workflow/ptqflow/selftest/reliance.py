"""Whether a recipe may be calibrated on a device, by what the device is found to compute now."""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from ptqflow.devices.device import Device
from ptqflow.errors import ConfigError
from ptqflow.recipes import Recipe, Reliance


def said(row: Mapping[str, Any]) -> str:
    """Value, limit and detail of a probe's row, in words."""
    numbers = "" if row["value"] is None else f"{row['value']:.3g} where {row['limit']:.3g} is allowed"
    return ", ".join(filter(None, [numbers, row["detail"]]))


def check_device(recipe: Recipe, device: Device) -> None:
    """Run the probes that `recipe` relies on. Raises ConfigError with what failed.

    Every job asks its own device: on a cluster another job's may be another.
    """
    failed = [row for row in _probed(device, recipe.relies_on()) if not row["passed"]]
    if failed:
        what = "; ".join(f"{row['probe']}: {said(row)}" for row in failed)
        raise ConfigError(
            f"the self-test of {device.name} failed where this recipe relies on it ({what}); take another platform or torch"
        )


@cache
def _probed(device: Device, relied: frozenset[Reliance]) -> list[dict[str, Any]]:
    """Found by name: no number follows from what the probes are, so a further probe makes no recipe's jobs run again."""
    found: Iterable[dict[str, Any]] = import_module("ptqflow.selftest.probes").probed(device, relied) if relied else []
    return list(found)
