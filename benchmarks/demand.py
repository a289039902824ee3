"""Peak memory of every stage beside what `ptqflow/demands.py` estimates, as whole processes on one model.

    python benchmarks/demand.py MODEL NAME      MODEL: a folder, or random-284m

Few tokens and one chunk of 4 blocks, so that it takes minutes. Prints a table and adds rows to results/bench/demand.parquet.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from peer_models import Shape, random
from ptqflow import demands
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.tables import column, write_rows
from ptqflow.demands import MB, ROOM, Demand, Dimensions
from ptqflow.environment import VARIABLES
from ptqflow.presets import resolve
from pyarrow import parquet

ROOT = Path(__file__).resolve().parents[1]
RANDOM = {"random-284m": Shape(20, 1152, 2816, 18, 6, 16, 256)}
SAMPLES, LENGTH, BLOCKS = 16, 256, 4
_GROUPS = {"scheme": {"weights": {"group_size": 64}}}  # divide the channels of both models
RECIPES: dict[str, dict[str, Any]] = {
    "rtn-w8a8": {},
    "gptq-w4a16": _GROUPS,
    "awq-w4a16": _GROUPS,
    "flatquant-w4a4kv4": {"transform": {"epochs": 1}},
}
# A process's own word: what its parent sees of a child counts the parent's memory at the fork.
WATCHED = """
import atexit, re, resource, runpy, sys
def tell():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    print(peak, usage.ru_utime + usage.ru_stime, file=sys.stderr, flush=True)
atexit.register(tell)
sys.argv = sys.argv[1:]
runpy.run_module("ptqflow", run_name="__main__", alter_sys=False)
"""
SCHEMA = pa.schema(
    [
        column("model", pa.string(), "its name"),
        column("parameters", pa.int64(), "of its linears and tables"),
        column("stage", pa.string(), "stage, and what of it"),
        column("peak_bytes", pa.int64(), "peak resident size of the process", unit="bytes"),
        column("estimated_bytes", pa.int64(), "by demands.py, without its room", unit="bytes"),
        column("cpu_seconds", pa.float64(), "user and system time of the process", unit="s"),
    ]
)


def peak(stage: str, settings: dict[str, Any], *options: object) -> tuple[int, float]:
    """Peak resident bytes and CPU seconds of one stage; its own words on failure."""
    command = [sys.executable, "-c", WATCHED, "ptqflow", stage, "--settings", json.dumps(settings), *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{stage} failed:\n{done.stderr[-2000:]}")
    kilobytes, seconds = done.stderr.splitlines()[-1].split()
    return int(kilobytes) * 1024, float(seconds)


def runs(source: Path, tokens: Path | None, work: Path) -> Iterator[tuple[str, tuple[int, float], Demand]]:
    """Of every stage: its name, what was measured, and the estimate."""
    model, cpu = work / "model/manifest.json", ("--platform", "cpu")
    peak("fetch", {"path": str(source)}, "--output", model)
    d = Dimensions.of(json.loads((source / "config.json").read_text()), on_device=False)
    if tokens is None:
        tokens = work / "tokens.parquet"
        drawn = {
            "source": {"path": str(ROOT / "resources/calibration/traces.jsonl")},
            "samples": SAMPLES,
            "sequence_length": LENGTH,
        }
        peak("tokens", {**drawn, "format": "chat"}, "--model", model, "--output", tokens)
    turned = peak("rotate", {"rotation": {"name": "hadamard"}}, "--model", model, "--output", work / "rotated/manifest.json")
    yield "rotate", turned, demands.rotate(d)
    chunks, seen = -(-d.layers // BLOCKS), SAMPLES * LENGTH
    calibration = work / "calibration/manifest.json"
    collected = peak("collect", {"chunks": chunks}, *cpu, "--model", model, "--tokens", tokens, "--output", calibration)
    yield "collect", collected, demands.collect(d, seen, False)
    given = ("--model", model, "--calibration", calibration)
    for preset, changes in RECIPES.items():
        recipe, place = resolve({"preset": preset, **changes}), work / preset
        of_chunk = {"chunk": 0, "layers": [0, BLOCKS], "recipe": recipe.for_layers(range(BLOCKS)).dump()}
        outputs = ("--qparams", place / "q.safetensors", "--diagnostics", place / "d.parquet", "--losses", place / "l.parquet")
        found = peak("quantize", of_chunk, *cpu, *given, *outputs)
        yield f"quantize, {BLOCKS} blocks, {preset}", found, demands.quantize(d, BLOCKS, seen, recipe, False, LENGTH)
    recipe, place = resolve({"preset": "rtn-w8a8"}), work / "whole"
    qparams = place / "q.safetensors"
    whole = {"chunk": 0, "layers": [0, d.layers], "recipe": recipe.for_layers(range(d.layers)).dump()}
    peak(
        "quantize", whole, *cpu, "--model", model, "--tokens", tokens, "--qparams", qparams, "--diagnostics", place / "d.parquet"
    )
    fake = place / "fake/manifest.json"
    for form in ("fake", "compressed-tensors"):
        settings = {"recipe": recipe.dump(), "form": form}
        written = ("--model", model, "--qparams", qparams, "--output", place / form / "manifest.json")
        yield f"export, {form}", peak("export", settings, *written), demands.export(d)
    settings = {"recipe": recipe.dump(), "form": "compressed-tensors", "engine": "transformers"}
    read = ("--model", model, "--tokens", tokens, "--qparams", qparams, "--fake", fake)
    checked = (*read, "--checkpoint", place / "compressed-tensors/manifest.json", "--output", work / "v.parquet")
    yield "verify, compressed-tensors", peak("verify", settings, *cpu, *checked), demands.verify(d, False)
    asked = {"task": "t", "seed": 0, "batch_size": 8}
    answers = (*cpu, "--checkpoint", fake, "--output", work / "g.parquet")
    for name, benchmark, folder, protocol in (
        ("completions of 32 tokens", "problems", "arithmetic", {"max_new_tokens": 32, "limit": 8}),
        ("windows of 256", "text", "text", {"window": 256, "limit": 8}),
    ):
        settings = {
            **asked,
            "benchmark": benchmark,
            "source": {"path": str(ROOT / "resources/tasks" / folder)},
            "protocol": protocol,
        }
        yield f"generate, {name}, batch of 8", peak("generate", settings, *answers), demands.generate(d, protocol, 8, False)
    timing = {"batch_sizes": [1, 8], "prompt_tokens": [64], "new_tokens": 4, "repetitions": 1}
    timed = peak("measure", timing, *cpu, "--checkpoint", fake, "--output", work / "m.parquet")
    yield "measure", timed, demands.measure(d, 8, 68, 4, False)


def main() -> None:
    """Measure one model and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("name")
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench/demand.parquet")
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "workflow"), **VARIABLES}
    rows = parquet.read_table(args.output).to_pylist() if args.output.is_file() else []
    rows = [row for row in rows if row["model"] != args.name]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source, tokens = Path(args.model), None
        if args.model in RANDOM:
            source, tokens = work / "random/model", work / "random/tokens.parquet"
            random(source, RANDOM[args.model])
        size = Dimensions.of(json.loads((source / "config.json").read_text()), on_device=False).parameters
        print("| stage | measured (MB) | estimated (MB) | estimated / measured |\n|---|---|---|---|")
        for stage, (found, seconds), demand in runs(source, tokens, work):
            estimated = int(demand.mem_mb / ROOM * MB)
            print(f"| {stage} | {found / MB:.0f} | {estimated / MB:.0f} | {estimated / found:.2f} |", flush=True)
            who = {"model": args.name, "parameters": size, "stage": stage, "cpu_seconds": seconds}
            rows.append(who | {"peak_bytes": found, "estimated_bytes": estimated})
    write_rows(args.output, SCHEMA, rows, provenance("bench", {}, ""))


if __name__ == "__main__":
    main()
