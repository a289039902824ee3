"""Blocks are quantized on a device that is not the CPU without an operation on tensors of both."""

import pytest
import torch
from elsewhere import Elsewhere
from elsewhere import elsewhere as elsewhere
from ptqflow.methods.layer import quantize_layer
from ptqflow.methods.transforms import awq, flatquant
from ptqflow.modeling.anatomy import SITES
from ptqflow.modeling.blocks import Blocks
from ptqflow.presets import resolve

WIDTHS = {"qkv": 128, "o": 128, "gate_up": 128, "down": 256}
RECIPES = {
    "rtn": {"preset": "rtn-w4a4kv4"},
    "gptq": {"preset": "gptaq-w4a16", "rounding": {"token_weights": "attention"}},
    "awq": {"preset": "awq-w4a16"},
    "hqq": {"preset": "hqq-w4a16"},
    "cache before RoPE": {"preset": "kvquant-kv4"},
    "smoothquant, static cache": {"preset": "smoothquant-w8a8kv8-ascend", "rounding": {"name": "rtn"}},
    "flatquant": {"preset": "flatquant-w4a4kv4", "transform": {"epochs": 1, "batch_size": 4}},
    "chosen clip": {"preset": "awq-gptq-w4a16", "clip": {"name": "auto"}},
}
CASES = [
    *(pytest.param(name, True, marks=[pytest.mark.slow] if name == "chosen clip" else []) for name in RECIPES),
    *((name, False) for name in ("rtn", "flatquant")),
]


@pytest.mark.parametrize(("name", "held"), CASES)
def test_no_operation_takes_tensors_of_two_devices(name, held, model, elsewhere, monkeypatch):
    """`held`: states lie on the device, too. Of numbers that are made up no point of AWQ's search would be left after a batch."""
    recipe = resolve(RECIPES[name])
    monkeypatch.setattr(flatquant, "gradient_error", lambda *_: 0.0)
    monkeypatch.setattr(awq, "_FEWEST_SAMPLES", 1 << 20)
    blocks = Blocks(model, elsewhere.torch_device, elsewhere.compute_dtype)
    hidden = blocks.embed(torch.arange(8 * 100).remainder(60).view(8, 100) + 3)
    hidden = hidden.to(elsewhere.torch_device) if held else hidden
    exact = hidden.clone() if recipe.rounding.asymmetric else None
    peaks = {site.name: torch.ones(WIDTHS[site.name]) for site in SITES}
    with torch.no_grad():
        qparams, rows, _ = quantize_layer(blocks, 0, hidden, peaks, recipe, elsewhere, exact=exact)
    assert rows
    assert {tensor.device.type for tensor in qparams.values()} == {"cpu"}


def test_nor_where_the_device_has_float64(model, elsewhere, monkeypatch):
    monkeypatch.setattr(Elsewhere, "float64_device", elsewhere.torch_device)
    test_no_operation_takes_tensors_of_two_devices("flatquant", True, model, elsewhere, monkeypatch)


def test_what_takes_tensors_of_both_is_seen(elsewhere):
    here, there = torch.ones(3), torch.ones(3, device=elsewhere.torch_device)
    index = torch.tensor([0, 2])
    mixes = [lambda: here + there, lambda: torch.cat([here, there]), lambda: here[there.long()]]
    for mixed in (*mixes, lambda: there.__setitem__(index, here[:2])):
        with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
            mixed()
    assert there[index].is_meta
    assert there.to("cpu").is_cpu
