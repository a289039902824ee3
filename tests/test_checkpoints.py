"""Checkpoints for engines: complete, exact."""

import json

import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig
from ptqflow.checkpoints import registry
from ptqflow.modeling.qparams import QParams
from ptqflow.modeling.weights import Weights
from ptqflow.presets import resolve
from tiny_models import collect, export, quantize, tiny_model


def scheme(bits, symmetric=True, group=32, inputs=None, **more):
    weights = {"num_bits": bits, "symmetric": symmetric, "strategy": "group" if group else "channel", "group_size": group}
    activations = {"input_activations": {"num_bits": inputs[0], "symmetric": inputs[1]}} if inputs else {}
    return resolve({"scheme": {"weights": weights, **activations}, **more})


MIXED = [
    {"layers": [1], "linears": ["down_proj"], "weights": {"num_bits": 8, "strategy": "channel"}},
    {"layers": [0], "linears": ["q_proj", "k_proj", "v_proj"], "weights": None},
]
RECIPES = {
    "w8a8": scheme(8, group=None, inputs=(8, False)),
    "w8a8-symmetric-smooth": scheme(8, group=None, inputs=(8, True), transform={"name": "smoothquant"}),
    "w8a8-tensor": resolve({"scheme": {"weights": {"num_bits": 8, "strategy": "tensor"}, "input_activations": {"num_bits": 8}}}),
    "w4a16": scheme(4),
    "w4a16-asymmetric-awq": scheme(4, False, transform={"name": "awq"}),
    "w4a16-channel": scheme(4, group=None),
    "w4a16-channel-asymmetric": scheme(4, False, group=None),
    "w4a16-shards": scheme(4, group=None, input_shards=2),
    "w3a16": scheme(3, rounding={"name": "gptq"}),
    "w3a16-asymmetric": scheme(3, False),
    "w8a16": scheme(8),
    "w8a16-asymmetric": scheme(8, False),
    "w5a16-asymmetric": scheme(5, False),
    "w2a16": scheme(2),
    "w4a8": scheme(4, inputs=(8, False)),
    "w4a8-asymmetric-weights": scheme(4, False, inputs=(8, True)),
    "w4a4": scheme(4, group=None, inputs=(4, True)),
    "mixed": scheme(4, False, overrides=MIXED),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def model(work):
    return tiny_model(work / "model", dtype=torch.bfloat16, shards=True)


@pytest.fixture(scope="module")
def calibration(model, work):
    return collect(model, work)


@pytest.fixture(scope="module", params=RECIPES)
def exported(request, model, calibration, work):
    """(recipe's name, its qparams, fake checkpoint, compressed-tensors checkpoint)"""
    recipe, folder = RECIPES[request.param], work / request.param
    qparams = quantize(model, calibration, recipe, folder)
    fake = export(model, qparams, recipe, folder / "fake")
    return request.param, QParams(qparams), fake, export(model, qparams, recipe, folder / "ct", "compressed-tensors")


def layout_of(model, name, qparams, form="compressed-tensors"):
    config = json.loads((model / "config.json").read_text())
    return registry.layout(form)(Weights(model), qparams, RECIPES[name], config)


def test_checkpoint_holds_what_its_specification_says_and_nothing_else(exported, model):
    name, qparams, _, folder = exported
    spec, checkpoint = layout_of(model, name, qparams).spec(), Weights(folder)
    assert checkpoint.file_of.keys() == spec.keys()
    for key, expected in spec.items():
        assert checkpoint.header(key) == (expected.dtype, expected.shape)
        assert expected.complaint(checkpoint[key]) is None, key
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(s.bytes for s in spec.values())
    assert not {key for key in spec if key.endswith(".weight_packed") and key.replace("_packed", "") in spec}


def test_integers_and_weights_read_back_are_those_of_qparams_and_of_the_fake_form(exported, model):
    name, qparams, fake, folder = exported
    layout, checkpoint = layout_of(model, name, qparams), Weights(folder)
    dense, fake_checkpoint = layout_of(model, name, qparams, "fake"), Weights(fake)
    assert layout.linears
    for prefix, linear in layout.linears.items():
        found = layout.read(checkpoint, linear)
        assert torch.equal(found.integers, qparams[f"{prefix}.integers"])
        assert torch.equal(found.zero_point, qparams[f"{prefix}.zero_point"])
        assert found.integers.dtype == qparams[f"{prefix}.integers"].dtype
        torch.testing.assert_close(found.scale, qparams[f"{prefix}.scale"], rtol=2**-8, atol=0)
        weight = layout.read_weight(checkpoint, linear)
        torch.testing.assert_close(weight, dense.read_weight(fake_checkpoint, linear), rtol=2**-7, atol=0)


def test_config_is_one_that_compressed_tensors_accepts(exported):
    _, _, _, folder = exported
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert QuantizationConfig.model_validate(config).quantization_status.value == "compressed"
