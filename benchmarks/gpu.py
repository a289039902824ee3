"""What a GPU makes of the methods, in one run: self-test, seconds per block of a 7B model, agreement with the CPU, peers, demo.

`make check-gpu` runs it; each part stands alone (`--parts`), and what cannot run here is a line that says why. Writes
results/bench/gpu.parquet. Parts:

limits     the card's own: TFLOP/s of float32 and bfloat16 products, TB/s of a copy, by CUDA events
selftest   the stage `selftest`
blocks     quantize of one block of the shapes of DeepSeek-R1-Distill-Qwen-7B, 128 x 2048 tokens: seconds, peak memory, TFLOP/s
agreement  a small random model quantized on the CPU and on the GPU: share of equal integers, block errors
inference  benchmarks/inference.py: prefill and decode of float, fake and integer checkpoints in one engine
peers      benchmarks/peers.py on that 7B block (llmcompressor in its own environment)
study      the demo study with `--profile gpu-local`
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import inference
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from peer_models import OF_7B, SMALL, Shape, random
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.schemas import DIAGNOSTICS, SELFTEST
from ptqflow.artifacts.tables import column, read_table, write_rows
from ptqflow.devices.device import Device, select
from ptqflow.errors import PtqflowError
from ptqflow.presets import resolve
from ptqflow.recipes import Recipe
from ptqflow.stages import collect, quantize, selftest
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

ROOT, HERE = Path(__file__).resolve().parents[1], Path(__file__).resolve().parent
SCHEMA = pa.schema(
    [
        column("part", pa.string(), "part of the check"),
        column("what", pa.string(), "what was measured"),
        column("value", pa.float64(), "the figure; null: not run", nullable=True),
        column("unit", pa.string(), "its unit"),
        column("note", pa.string(), "why it was not run, or more words", nullable=True),
    ]
)
RECIPES: dict[str, dict[str, Any]] = {
    "rtn-w4a16": {"preset": "rtn-w4a16"},
    "gptq-w4a16": {"preset": "gptq-w4a16"},
    "awq-w4a16": {"preset": "awq-w4a16"},
    "smoothquant-w8a8": {"preset": "smoothquant-w8a8"},
    # A second epoch tells what each one costs.
    "flatquant-w4a4kv4, 1 epoch": {"preset": "flatquant-w4a4kv4", "transform": {"epochs": 1}},
    "flatquant-w4a4kv4, 2 epochs": {"preset": "flatquant-w4a4kv4", "transform": {"epochs": 2}},
    "flatquant-w4a4kv4, TF32, 1 epoch": {"preset": "flatquant-w4a4kv4", "transform": {"epochs": 1, "matmul_precision": "high"}},
}
Rows = list[dict[str, Any]]


def row(part: str, what: str, value: float | None, unit: str, note: str | None = None) -> dict[str, Any]:
    """One figure, also printed."""
    print(f"{part}: {what}: {'not run' if value is None else f'{value:.4g} {unit}'}{f' ({note})' if note else ''}", flush=True)
    return {"part": part, "what": what, "value": value, "unit": unit, "note": note}


def limits(device: Device, folder: Path, shape: Shape) -> Rows:
    """What the card reaches on large products and on a copy."""
    n = 8192 if device.module is not None else 512
    rows = []
    for dtype, name in ((torch.float32, "float32 (true)"), (torch.bfloat16, "bfloat16")):
        x = torch.randn(n, n, device=device.torch_device, dtype=dtype)
        with device.true_float32():
            rate = 2 * n**3 / inference.seconds_of(device, lambda x=x: x @ x) / 1e12
        rows.append(row("limits", f"product of {n} x {n} matrices, {name}", rate, "TFLOP/s"))
    source = torch.empty(n * n * 8, device=device.torch_device, dtype=torch.uint8)
    rate = 2 * source.numel() / inference.seconds_of(device, source.clone) / 1e12
    return [*rows, row("limits", "copy, bytes read and written", rate, "TB/s")]


def probes(device: Device, folder: Path, shape: Shape) -> Rows:
    """The self-test."""
    path = folder / "selftest.parquet"
    selftest.run(selftest.Settings(), Namespace(platform=device.platform, wiring_only=False, output=path, code=None))
    return [
        row("selftest", f["probe"], f["value"], "", f"limit {f['limit']}, {'passed' if f['passed'] else 'FAILED'}; {f['detail']}")
        for f in read_table(path, SELFTEST).to_pylist()
    ]


def quantized(platform: str, folder: Path, recipe: Recipe, layers: int, output: Path) -> list[dict[str, Any]]:
    """Diagnostics of one quantization by the stages, one chunk; integers are left in `output`."""
    model, tokens, calibration = folder / "model/manifest.json", folder / "tokens.parquet", None
    if recipe.reads_statistics():
        calibration, tokens = folder / f"calibration-{platform}/manifest.json", None
        if not calibration.is_file():
            arguments = Namespace(platform=platform, model=model, tokens=folder / "tokens.parquet", output=calibration, code=None)
            collect.run(collect.Settings(chunks=1), arguments)
    paths = {"qparams": output / "qparams.safetensors", "diagnostics": output / "diagnostics.parquet", "losses": None}
    paths |= {"model": model, "tokens": tokens, "calibration": calibration}
    arguments = Namespace(platform=platform, code=None, **paths)
    quantize.run(quantize.Settings(recipe=recipe, chunk=0, layers=(0, layers)), arguments)
    return read_table(paths["diagnostics"], DIAGNOSTICS).to_pylist()


class Products(TorchDispatchMode):
    """Counts the operations of matrix products, attention's apart."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function; add 2 n m k of a product."""
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in ("mm", "addmm", "addmm_", "bmm", "baddbmm"):
            inner = args[1 if "add" in function.overloadpacket.__name__ else 0]
            self.operations += 2 * result.numel() * inner.shape[-1]
        return result


def blocks(device: Device, folder: Path, shape: Shape) -> Rows:
    """Seconds per block, peak memory, and the rate of all products counted."""
    random(folder / "wide/model", shape)
    rows = []
    for name, entry in RECIPES.items():
        recipe = resolve(entry)
        found = [
            r for r in quantized(device.platform, folder / "wide", recipe, shape.layers, folder / name) if r["module"] == "block"
        ]
        seconds = sum(r["seconds"] for r in found) / shape.layers
        with Products() as counted:
            quantized(device.platform, folder / "wide", recipe, shape.layers, folder / name)
        work = counted.operations / shape.layers
        note = f"peak {max(r['peak_bytes'] for r in found) / 2**30:.1f} GiB, block error {found[-1]['output_error']:.3e}"
        rows.append(row("blocks", f"{name}: seconds per block", seconds, "s", note))
        rows.append(row("blocks", f"{name}: products", work / seconds / 1e12, "TFLOP/s", f"{work / 1e12:.1f} TFLOP counted"))
    return rows


def agreement(device: Device, folder: Path, shape: Shape) -> Rows:
    """The same recipes on the CPU and on the device."""
    random(folder / "small/model", SMALL)
    rows = []
    for name, entry in RECIPES.items():
        found = {}
        for platform in ("cpu", device.platform):
            place = folder / f"{name}-{platform}"
            diagnostics = quantized(platform, folder / "small", resolve(entry), SMALL.layers, place)
            errors = [r["output_error"] for r in diagnostics if r["module"] == "block"]
            found[platform] = load_file(place / "qparams.safetensors"), sum(errors) / len(errors)
        (ours, error), (theirs, other) = found["cpu"], found[device.platform]
        integers = [n for n, t in ours.items() if not t.is_floating_point() and not n.endswith("zero_point")]
        equal = sum((ours[n] == theirs[n]).sum().item() for n in integers) / sum(ours[n].numel() for n in integers)
        rows.append(
            row("agreement", f"{name}: equal integers", equal, "", f"block error {error:.4e} on the CPU, {other:.4e} here")
        )
    return rows


def latencies(device: Device, folder: Path, shape: Shape) -> Rows:
    """Prefill and decode of float, fake and integer checkpoints in one engine; parts of a W8A8 linear, and a transform's."""
    rows = []
    for found in inference.timed(device, folder, replace(shape, layers=2, sequences=4)):
        what = f"{found['checkpoint']}, {found['batch']} x {found['tokens']} tokens"
        for phase in ("prefill", "decode"):
            rows.append(row("inference", f"{what}: {phase}", 1e3 * found[phase], "ms", ", ".join(found["kernels"]) or None))
    for tokens in (1, 64, 2048):
        for part, seconds in inference.linear(device, shape, tokens).items():
            rows.append(row("inference", f"linear on {tokens} tokens: {part}", 1e6 * seconds, "us"))
        for what, seconds in inference.transform(device, shape, tokens).items():
            rows.append(row("inference", f"transform and quantize {tokens} tokens: {what}", 1e6 * seconds, "us"))
    for tokens in inference.W4_ROWS[device.torch_device.type]:
        for part, found in inference.four_bits(device, shape, tokens).items():
            ratio = part == inference.RATIO
            rows.append(
                row("inference", f"W4A16 linear on {tokens} tokens: {part}", found * (1 if ratio else 1e6), "" if ratio else "us")
            )
    return rows


def peers(device: Device, folder: Path, shape: Shape) -> Rows:
    """benchmarks/peers.py; its own table is printed and kept beside."""
    output, python = folder / "peers.parquet", os.environ.get("PTQFLOW_PEER", str(ROOT / ".venv-peers/bin/python"))
    if not Path(python).is_file():
        return [row("peers", "llmcompressor", None, "s", "no environment; run make .venv-peers/.ready, or set PTQFLOW_PEER")]
    command = [sys.executable, HERE / "peers.py", "--platform", device.platform, "--systems", "ptqflow", "llmcompressor"]
    command += [
        "--models",
        "block-of-7b",
        "--methods",
        "rtn-w4a16",
        "gptq-w4a16",
        "awq-duo-w4a16",
        "awq-w4a16",
        "smoothquant-rtn-w8a8",
    ]
    command += ["--llmcompressor", python, "--threads", str(os.cpu_count()), "--output", output]
    done = subprocess.run([*map(str, command)])
    if done.returncode:
        return [row("peers", "benchmarks/peers.py", None, "s", f"exit status {done.returncode}")]
    return [
        row("peers", f"{r['method']} {r['system']}", r["seconds"], "s", r["absent"] or f"output error {r['output_error']:.4e}")
        for r in pq.read_table(output).to_pylist()
        if r["system"] != "float"
    ]


def study(device: Device, folder: Path, shape: Shape) -> Rows:
    """The demo, from an empty results folder, by the profile of this platform."""
    profile = {"cpu": "local"}.get(device.platform, f"{device.platform}-local")
    start = time.perf_counter()
    command = [ROOT / "workflow/run-study", "--profile", profile, "--cores", "all"]
    shared = os.environ | {"PTQFLOW_JOBS_PER_DEVICE": "4"}
    done = subprocess.run(command, cwd=ROOT, env=shared)  # the demo's models are small: four jobs share the card
    seconds = time.perf_counter() - start
    return [
        row("study", f"demo, --profile {profile}", None if done.returncode else seconds, "s", f"exit status {done.returncode}")
    ]


PARTS: dict[str, Callable[[Device, Path, Shape], Rows]] = {
    "limits": limits,
    "selftest": probes,
    "blocks": blocks,
    "agreement": agreement,
    "inference": latencies,
    "peers": peers,
    "study": study,
}


def main() -> None:
    """Run the parts, each on its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", default="gpu", help="cpu: the same script on a machine without a GPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--small", action="store_true", help="blocks of a small model, to try the script itself")
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench/gpu.parquet")
    args = parser.parse_args()
    try:
        device = select(args.platform)
    except PtqflowError as error:
        raise SystemExit(f"check-gpu: nothing was run: {error}") from None
    rows: Rows = []
    for part in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            try:
                rows += PARTS[part](device, Path(folder), SMALL if args.small else OF_7B)
            except Exception as error:  # one part must not cost the others their device time
                rows.append(row(part, "failed", None, "", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"))
            print(f"{part}: {time.perf_counter() - start:.0f} s in all", flush=True)
        settings = {"platform": args.platform, "parts": args.parts, "small": args.small}
        write_rows(args.output, SCHEMA, rows, provenance("bench-gpu", settings, "", device=device.name))
    print(json.dumps({"device": device.name, "torch": torch.__version__, "rows": len(rows)}))


if __name__ == "__main__":
    main()
