"""Seconds and peak memory of each stage on the demo model, as whole processes, with the shares of start-up and of work.

`make bench` runs it. Prints a table and writes results/bench/stages.parquet: one row per stage, recipe and repetition.
Whole-process times include starting Python and importing torch and transformers, which every job of the workflow pays;
`start_seconds` is that part, measured beside each run by a process that only imports the stage (some stages import more later).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.tables import column, write_rows
from ptqflow.environment import VARIABLES
from ptqflow.presets import resolve

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = pa.schema(
    [
        column("stage", pa.string(), "stage of the workflow"),
        column("recipe", pa.string(), "preset, where the stage depends on it", nullable=True),
        column("repetition", pa.int32(), "repetition"),
        column("seconds", pa.float64(), "wall time of the process", unit="s"),
        column("start_seconds", pa.float64(), "wall time of a process that only imports the stage", unit="s"),
        column("cpu_seconds", pa.float64(), "user and system time of the process", unit="s"),
        column("peak_bytes", pa.int64(), "peak resident size of the process", unit="bytes"),
    ]
)
RECIPES = ("rtn-w4a16", "awq-w4a16", "gptq-w4a16", "rtn-w8a8", "smoothquant-w8a8", "smoothquant-w8a8kv8")


def timed(command: list[str]) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and peak bytes of a command; its own words on failure."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            output.seek(0)
            raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{output.read()[-2000:]}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def commands(folder: Path) -> list[tuple[str, str | None, list[str]]]:
    """Stage, recipe and arguments of every run, in the order in which they depend on each other."""
    model, tokens = folder / "model/manifest.json", folder / "tokens.parquet"
    calibration = folder / "calibration/manifest.json"
    layers = json.loads((ROOT / "resources/demo-model/config.json").read_text())["num_hidden_layers"]
    traces = {"path": "resources/calibration/traces.jsonl"}
    source = {"source": traces, "format": "chat", "samples": 64, "sequence_length": 256}
    runs: list[tuple[str, str | None, dict[str, object], list[str | Path]]] = [
        ("fetch", None, {"path": "resources/demo-model"}, ["--output", model]),
        ("tokens", None, source, ["--model", model, "--output", tokens]),
        ("collect", None, {"chunks": 1}, ["--model", model, "--tokens", tokens, "--output", calibration]),
    ]
    for name in RECIPES:
        recipe, place = resolve({"preset": name}).dump(), folder / name
        qparams, checkpoint = place / "qparams.safetensors", place / "fake/manifest.json"
        quantize = ["--model", model, "--calibration", calibration, "--qparams", qparams]
        generations, samples = place / "generations.parquet", place / "samples.parquet"
        generate = ["--platform", "cpu", "--checkpoint", checkpoint, "--output", generations]
        asked = {"limit": 100, "max_new_tokens": 256, "temperature": 0}
        task: dict[str, object] = {"task": "arithmetic", "benchmark": "problems", "protocol": asked}
        task |= {"source": {"path": "resources/tasks/arithmetic"}}
        runs += [
            (
                "quantize",
                name,
                {"recipe": recipe, "chunk": 0, "layers": [0, layers]},
                [*quantize, "--diagnostics", place / "d.parquet"],
            ),
            (
                "export",
                name,
                {"recipe": recipe, "form": "fake"},
                ["--model", model, "--qparams", qparams, "--output", checkpoint],
            ),
            ("generate", name, task | {"batch_size": 100}, generate),
            ("score", name, {"benchmark": "problems"}, ["--generations", generations, "--output", samples]),
        ]
    head = [sys.executable, "-m", "ptqflow"]
    return [(s, r, [*head, s, "--settings", json.dumps(settings), *map(str, args)]) for s, r, settings, args in runs]


def main() -> None:
    """Run all stages `--repetitions` times and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="OpenMP threads of each stage")
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench/stages.parquet")
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(args.threads), **VARIABLES}
    rows = []
    for repetition in range(args.repetitions):
        with tempfile.TemporaryDirectory() as folder:
            for stage, recipe, command in commands(Path(folder)):
                start, _, _ = timed([sys.executable, "-c", f"import ptqflow.stages.{stage}"])
                seconds, cpu, peak = timed(command)
                figures = {"seconds": seconds, "start_seconds": start, "cpu_seconds": cpu, "peak_bytes": peak}
                rows.append({"stage": stage, "recipe": recipe, "repetition": repetition, **figures})
                print(f"{stage} {recipe or ''}: {seconds:.1f} s", file=sys.stderr)
    write_rows(args.output, SCHEMA, rows, provenance("bench", {"threads": args.threads}, ""))
    print("| stage | recipe | seconds | of which imports | CPU seconds | peak MB |\n|---|---|---|---|---|---|")
    for stage, recipe in dict.fromkeys((row["stage"], row["recipe"]) for row in rows):
        mine = [row for row in rows if (row["stage"], row["recipe"]) == (stage, recipe)]
        wall, start, cpu, peak = (
            statistics.median(row[key] for row in mine) for key in ("seconds", "start_seconds", "cpu_seconds", "peak_bytes")
        )
        print(f"| {stage} | {recipe or '–'} | {wall:.1f} | {start:.1f} | {cpu:.1f} | {peak / 1e6:.0f} |")


if __name__ == "__main__":
    main()
