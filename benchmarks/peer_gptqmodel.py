"""One quantization by GPTQModel, in its own environment (envs/gptqmodel.txt); usage and output as peer_llmcompressor.py.

GPTQModel writes a packed checkpoint; its dense weights are what its own dequantization makes of it.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch

if (os.cpu_count() or 1) < 3:
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # its loader takes two, and by default there is one of two cores

from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from peer_memory import peak_bytes
from safetensors.torch import load_file, save_file


def dense_weights(packed: Path, original: Path, bits: int, group_size: int) -> dict[str, torch.Tensor]:
    """The original's tensors with each packed linear (qweight, qzeros, scales, g_idx; GPTQ format v1) dequantized."""
    stored = {name: t for file in sorted(packed.glob("*.safetensors")) for name, t in load_file(file).items()}
    dense = {name: t for file in sorted(original.glob("*.safetensors")) for name, t in load_file(file).items()}
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    for name in [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]:
        qweight, qzeros, scales = (stored[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales"))
        integers = ((qweight.unsqueeze(1) >> shifts.view(1, -1, 1)) & (2**bits - 1)).flatten(0, 1)  # [in, out]
        zeros = ((qzeros.unsqueeze(2) >> shifts.view(1, 1, -1)) & (2**bits - 1)).flatten(1) + 1  # v1 stores zero - 1
        group = stored[f"{name}.g_idx"].long() if f"{name}.g_idx" in stored else torch.arange(len(integers)) // group_size
        weight = (integers - zeros[group]).float() * scales[group].float()
        dense[f"{name}.weight"] = weight.T.to(dense[f"{name}.weight"].dtype).contiguous()
    return dense


def main() -> None:
    """Load, quantize, write its checkpoint (all timed); write dense weights."""
    folder, tokens_path, method, output = Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
    tokens = pq.read_table(tokens_path, columns=["tokens"]).column("tokens").to_pylist()
    group_size = int(sys.argv[5])
    config = QuantizeConfig(bits=4, group_size=group_size, sym=method.endswith("-sym"), device="cpu")
    began = time.perf_counter()
    model = GPTQModel.load(str(folder), config)
    loading = time.perf_counter() - began
    data = [{"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long)} for row in tokens]
    start = time.perf_counter()
    model.quantize(data, batch_size=1, backend=BACKEND.AUTO)
    seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    report = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": peak_bytes()}
    output.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    model.save(str(output / "packed"))
    report["file_seconds"] = loading + seconds + time.perf_counter() - began
    save_file(dense_weights(output / "packed", folder, 4, group_size), output / "model.safetensors", {"format": "pt"})
    (output / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
