"""The device's self-test: right here, and it sees each kind of wrong device that it was made for."""

import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from checkout import REPOSITORY
from ptqflow.artifacts import schemas
from ptqflow.artifacts.tables import read_table
from ptqflow.cli import main
from ptqflow.devices.device import select
from ptqflow.errors import ConfigError
from ptqflow.presets import PRESETS, resolve
from ptqflow.selftest import arithmetic, gradients, probes, reliance
from ptqflow.selftest.probe import Probe
from ptqflow.selftest.probes import PROBES
from ptqflow.selftest.reliance import check_device
from tiny_models import quantize as quantize_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("selftest") / "selftest.parquet"
    assert main(["selftest", "--settings", "{}", "--output", str(path)]) == 0
    return path


def test_this_cpu_passes_every_probe(found):
    rows = read_table(found, schemas.SELFTEST).to_pylist()
    assert [row for row in rows if row["passed"] is not True] == []
    assert len({row["probe"] for row in rows}) == len(rows) == len(PROBES) + 1


@pytest.mark.parametrize("name", gradients.SMOOTH)
def test_a_lost_or_wrong_gradient_is_seen(name):
    function, inputs = gradients.SMOOTH[name]
    assert gradients.smooth_error(function, inputs, CPU).value < 1e-5
    lost = gradients.smooth_error(lambda *x: function(*(t.detach() for t in x)), inputs, CPU)
    assert (lost.value, lost.detail) == (pytest.approx(1), "the gradient is lost")
    wrong = gradients.smooth_error(lambda *x: function(_Off.apply(x[0]), *x[1:]), inputs, CPU)
    assert not wrong.passed


class _Off(torch.autograd.Function):
    """The identity, whose gradient is 1 % too large."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 1.01 * gradient


@pytest.mark.parametrize("name", gradients.ROUNDING)
def test_straight_through_gradients_equal_the_definition(name):
    """The probe compares devices with this CPU; here the CPU is compared with the closed form."""
    function, inputs = gradients.ROUNDING[name]
    assert gradients.rounding_error(function, inputs, CPU).value == 0
    x, scale = inputs if name == "weights" else (inputs[0], None)
    found, *_ = gradients.autograd(function, inputs, CPU)
    weights = gradients.numbers(*x.shape, seed=3)
    if scale is not None:
        inside = ((x / scale).round() >= -8) & ((x / scale).round() <= 7)
        assert torch.equal(found, weights * inside)
    else:
        assert found.abs().sum() > 0


def test_products_of_fewer_bits_are_seen():
    with torch.autocast("cpu", torch.bfloat16):  # float32 operands rounded to 8 bits, as TF32 does to 11 and HF32 to 12
        assert arithmetic.float32_bits(CPU).detail.startswith("8 of 24 bits")
        assert not arithmetic.float32_bits(CPU).passed
        assert not arithmetic.product_error(CPU).passed
        assert not arithmetic.gram_error(CPU).passed


def test_the_dropped_gradient_of_inverse_is_seen_and_not_relied_on():
    """Some backends put a bare kernel on the autograd key of `inverse`: no gradient, and no warning. So here, on the CPU."""
    code = """
        import torch
        library = torch.library.Library("aten", "IMPL")
        library.impl("inverse", lambda x: torch.linalg.inv_ex(x.detach())[0].detach(), "AutogradCPU")
        from ptqflow.devices.device import select
        from ptqflow.selftest.probes import everything
        print(*(row["probe"] for row in everything(select("cpu")) if row["passed"] is False), sep="\\n")
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(REPOSITORY / "workflow"), "PATH": ""}
    )
    names = ["Tensor.inverse has a gradient", "torch.inverse has a gradient", "Tensor.double().inverse() has a gradient"]
    assert found.stdout.splitlines() == names


def test_wiring_needs_no_numbers(tmp_path):
    path = tmp_path / "selftest.parquet"
    assert main(["selftest", "--settings", "{}", "--wiring-only", "--output", str(path)]) == 0
    rows = read_table(path, schemas.SELFTEST).to_pylist()
    assert {row["passed"] for row in rows} == {True, None}
    assert {row["probe"] for row in rows if row["passed"]} >= {"gradient of inverse", "Tensor.inverse has a gradient"}
    assert all("only the wiring" in row["detail"] for row in rows if row["passed"] is None)


def test_wiring_sees_each_input_that_a_gradient_is_lost_to():
    function, inputs = gradients.SMOOTH["gated linear unit"]
    assert gradients.wired(function, inputs, CPU).value == 0
    assert gradients.wired(lambda x, y: function(x.detach(), y), inputs, CPU) == (1, 0, "no gradient, no warning")
    assert gradients.wired(lambda x, y: function(x, y).detach(), inputs, CPU).value == 2


@pytest.mark.parametrize("preset", PRESETS)
def test_who_relies_on_what(preset):
    recipe = resolve({"preset": preset})
    relied = recipe.relies_on()
    assert ("training" in relied) == (recipe.transform.name == "flatquant")
    assert ("second_order" in relied) == (recipe.rounding.name == "gptq" or recipe.transform.name == "awq")
    assert ("arithmetic" in relied) == bool(relied)


WRONG = gradients.Finding(1.0, 1e-4, "the gradient is lost")


def planted(monkeypatch, *names):
    """Probes of these names find something wrong."""
    found = [replace(probe, measure=lambda device: WRONG) if probe.name in names else probe for probe in PROBES]
    monkeypatch.setattr("ptqflow.selftest.probes.PROBES", found)
    reliance._probed.cache_clear()


@pytest.fixture
def forgotten():
    yield
    reliance._probed.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_only_who_relies_on_a_failing_probe_is_refused(monkeypatch):
    flat, gptq, rtn = (resolve({"preset": name}) for name in ("flatquant-w4a4kv4", "gptq-w4a16", "rtn-w4a16"))
    device = select("cpu")
    planted(monkeypatch, "gradient of inverse")
    with pytest.raises(ConfigError, match=r"gradient of inverse: 1 where 0.0001 is allowed, the gradient is lost\); take"):
        check_device(flat, device)
    check_device(gptq, device)
    planted(monkeypatch, "Cholesky factor", "Tensor.inverse has a gradient")
    with pytest.raises(ConfigError, match="Cholesky factor"):
        check_device(gptq, device)
    check_device(rtn, device)
    check_device(flat, device)


@pytest.mark.usefixtures("forgotten")
def test_quantize_asks_its_own_device(monkeypatch, model, calibration, work, capsys):
    planted(monkeypatch, "Gram matrix")
    recipe = {"preset": "gptq-w4a16", "scheme": {"weights": {"group_size": 32}}}
    with pytest.raises(AssertionError):
        quantize_model(model, calibration, resolve(recipe), work)
    assert "Gram matrix: 1 where" in capsys.readouterr().err


def test_what_a_device_cannot_do_at_all_has_failed():
    def unable(device):
        raise NotImplementedError("no kernel for this")

    row = probes._row(select("cpu"), Probe("x", unable), False)
    assert (row["passed"], row["value"], row["detail"]) == (False, None, "no kernel for this")
