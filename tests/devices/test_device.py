"""What a device tells of itself."""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import psutil
import pytest
import torch
from ptqflow.devices import device as device_module
from ptqflow.devices.device import Device, _multiplies_exactly, select
from ptqflow.numerics.products import bfloat16_matmul


@pytest.mark.parametrize(("platform", "kind", "rounded"), [("cpu", "cpu", False), ("gpu", "cuda", True)])
def test_products_are_as_precise_as_asked_and_as_before_again(platform, kind, rounded):
    device = Device(platform, torch.device(kind), torch.float32)
    with device.true_float32(), bfloat16_matmul():  # as a transform is learned
        before = torch.backends.cuda.matmul.fp32_precision
        with device.matmul_precision("highest"):
            assert torch.backends.cuda.matmul.fp32_precision == before != "tf32"
        with device.matmul_precision("high"):
            assert (torch.backends.cuda.matmul.fp32_precision == "tf32") == rounded
            assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        assert (torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision) == (before, "bf16")


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("of_bfloat16", [True, False])
def test_gram_matrices_of_bfloat16_numbers_are_multiplied_by_the_units_that_hold_them(of_bfloat16, exact, monkeypatch):
    monkeypatch.setattr(device_module, "_multiplies_exactly", lambda _: exact)
    gpu = Device("gpu", torch.device("cuda"), torch.bfloat16)
    with gpu.true_float32(), gpu.gram_precision(of_bfloat16):
        assert (torch.backends.cuda.matmul.fp32_precision == "tf32") == (of_bfloat16 and exact)


@pytest.mark.parametrize(("kind", "found"), [("cpu", "cpu"), ("cuda", "cuda"), ("npu", "cpu")])
def test_float64_is_computed_where_there_is_some(kind, found):
    device = Device(kind, SimpleNamespace(type=kind) if kind == "npu" else torch.device(kind), torch.bfloat16)  # type: ignore[arg-type]
    assert device.float64_device.type == found


def test_units_that_do_not_hold_bfloat16_numbers_are_told(monkeypatch):
    device = Device("gpu", torch.device("cpu"), torch.bfloat16)  # whose products are float32
    assert _multiplies_exactly.__wrapped__(device)

    @contextmanager
    def coarse(*_):
        with monkeypatch.context() as patch:
            product = torch.Tensor.__matmul__
            patch.setattr(torch.Tensor, "__matmul__", lambda a, b: product(a, b) * (1 + 2**-20))
            yield

    monkeypatch.setattr(Device, "matmul_precision", coarse)
    assert not _multiplies_exactly.__wrapped__(device)


@pytest.mark.parametrize(("free", "jobs", "moved"), [(8, "1", True), (7, "1", False), (16, "2", True), (15, "2", False)])
def test_states_are_held_on_a_device_with_room_for_those_of_all_its_jobs(free, jobs, moved, monkeypatch):
    states = torch.zeros(250)  # 1000 bytes
    monkeypatch.setenv("PTQFLOW_JOBS_PER_DEVICE", jobs)
    monkeypatch.setattr(Device, "free_bytes", lambda _: 1000 * free)
    assert Device("gpu", torch.device("meta"), torch.float32).near(states).is_meta == moved


def test_on_an_npu_operands_are_rounded_to_hf32(monkeypatch):
    matmul = SimpleNamespace(allow_hf32=False)
    npu = SimpleNamespace(matmul=matmul)
    monkeypatch.setattr(torch, "npu", npu, raising=False)
    monkeypatch.setitem(sys.modules, "torch_npu", SimpleNamespace(npu=npu))
    device = Device("ascend", SimpleNamespace(type="npu"), torch.float32)  # type: ignore[arg-type]
    with device.matmul_precision("highest"):
        assert not matmul.allow_hf32
    with device.matmul_precision("high"):
        assert matmul.allow_hf32
    assert not matmul.allow_hf32


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
