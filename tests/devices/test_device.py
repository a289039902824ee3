"""What a device tells of itself."""

from types import SimpleNamespace

import psutil
import pytest
from ptqflow.devices.device import select


@pytest.mark.parametrize(
    ("frequency", "sensors", "found"),
    [
        (SimpleNamespace(current=2400.0), {"a": [SimpleNamespace(current=40.0)], "b": [SimpleNamespace(current=55)]}, (2400, 55)),
        (None, {}, (None, None)),  # a container may tell neither
        (SimpleNamespace(current=0.0), {}, (None, None)),
    ],
)
def test_clock_and_temperature_as_far_as_the_machine_tells(monkeypatch, frequency, sensors, found):
    monkeypatch.setattr(psutil, "cpu_freq", lambda: frequency)
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors, raising=False)
    expected = {name: value for name, value in zip(("clock_mhz", "celsius"), found, strict=True) if value is not None}
    assert select("cpu").readings() == expected
