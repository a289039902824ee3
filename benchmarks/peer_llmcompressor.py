"""One quantization by llmcompressor, in its own environment (envs/peers.txt): times the call, writes the dense weights.

Usage: peer_llmcompressor.py MODEL TOKENS METHOD OUTPUT GROUP_SIZE. MODEL: a model folder; TOKENS: tokens.parquet; OUTPUT gets
model.safetensors (quantized and dequantized, in the model's dtype), packed (its own checkpoint) and report.json. Imports nothing
of ptqflow.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, forward_quantize
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from peer_memory import peak_bytes
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

# On a machine without accelerator, AWQ's cache of intermediates raises "Cannot access accelerator device when none is available":
# 0.14.0.1 pins memory unconditionally. Pinning is of no use there.
if not torch.accelerator.is_available():
    IntermediatesCache.pin_memory = lambda self, *args, **kwargs: None

LINEARS = {"targets": "Linear", "ignore": ["lm_head"]}


def by_group(bits: int, symmetric: bool = False) -> dict[str, Any]:
    """Weights alone, in groups; at 4 bits and 128 what the schemes W4A16 and W4A16_ASYM name."""
    weights = QuantizationArgs(num_bits=bits, symmetric=symmetric, strategy="group", group_size=int(sys.argv[5]))
    return {"config_groups": {"weights": QuantizationScheme(targets=["Linear"], weights=weights)}, "ignore": ["lm_head"]}


RECIPES = {
    "rtn-w4a16": lambda: [QuantizationModifier(**by_group(4, symmetric=True))],
    "rtn-w3a16": lambda: [QuantizationModifier(**by_group(3, symmetric=True))],
    "gptq-w4a16-sym": lambda: [GPTQModifier(**by_group(4, symmetric=True))],
    "gptq-w4a16": lambda: [GPTQModifier(**by_group(4))],
    "gptq-w3a16": lambda: [GPTQModifier(**by_group(3))],
    "awq-w4a16": lambda: [AWQModifier(), QuantizationModifier(**by_group(4))],
    "awq-w3a16": lambda: [AWQModifier(), QuantizationModifier(**by_group(3))],
    "smoothquant-rtn-w8a8": lambda: [SmoothQuantModifier(smoothing_strength=0.8), QuantizationModifier(scheme="W8A8", **LINEARS)],
    "smoothquant-gptq-w8a8": lambda: [SmoothQuantModifier(smoothing_strength=0.8), GPTQModifier(scheme="W8A8", **LINEARS)],
}


def dense_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All tensors by their names in a checkpoint; quantized weights on their grid (which leaves GPTQ's as they are)."""
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None and scheme.weights is not None:
            tensors[f"{name}.weight"] = forward_quantize(module, module.weight, "weight", scheme.weights).detach()
    extra = ("_scale", "_zero_point", "_g_idx", "_observer")
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items() if not any(part in name for part in extra)}


def main() -> None:
    """Load, quantize, write its checkpoint (all timed); write dense weights."""
    folder, tokens_path, method, output = Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
    tokens = pq.read_table(tokens_path, columns=["tokens"]).column("tokens").to_pylist()
    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    loading = time.perf_counter() - began
    data = Dataset.from_dict({"input_ids": tokens, "attention_mask": [[1] * len(row) for row in tokens]})
    start = time.perf_counter()
    oneshot(
        model=model, dataset=data, recipe=RECIPES[method](), max_seq_length=len(tokens[0]), num_calibration_samples=len(tokens)
    )
    seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    report = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": peak_bytes()}
    output.mkdir(parents=True, exist_ok=True)
    save_file(dense_weights(model), output / "model.safetensors", {"format": "pt"})
    began = time.perf_counter()
    model.save_pretrained(output / "packed", save_compressed=True)
    report["file_seconds"] = loading + seconds + time.perf_counter() - began
    (output / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
