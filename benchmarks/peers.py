"""ptqflow beside its peers, in one run: the same models, calibration tokens and schemes; seconds, memory, errors.

`make bench` runs it. Each system quantizes in a process and environment of its own and hands over dense weights, which one
evaluator judges. Prints a table with ratios and writes results/bench/peers.parquet: one row per model, method and system.

The work is the same: ptqflow does not measure what linears and blocks lose, as no peer does, unless `--layer-errors` asks for it.
(A study does by default.) `seconds` is from files (ptqflow) or a loaded model (peers) to the quantized result: for ptqflow the
stages collect and quantize, which read, verify and write their files; for peers the one call that quantizes. `file_seconds` adds
the peers' loading and the writing of their own checkpoint. Starting Python and imports are left out; `process_cpu_seconds` and
`peak_bytes` are the process's, imports included, up to the end of `seconds`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
from peer_models import GROUP_SIZE, MODELS, TRAINED
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.tables import column, write_rows
from ptqflow.environment import VARIABLES
from ptqflow.platforms import PLATFORMS
from ptqflow.presets import resolve

ROOT, HERE = Path(__file__).resolve().parents[1], Path(__file__).resolve().parent
SCHEMA = pa.schema(
    [
        column(
            "model",
            pa.string(),
            "demo (trained, 3.4M parameters), smollm2 (trained, 135M), or a random Qwen2",
        ),
        column("method", pa.string(), "scheme and method, the same for all systems"),
        column("system", pa.string(), "who quantized, or 'float'"),
        column("version", pa.string(), "version of the system", nullable=True),
        column("settings", pa.string(), "ptqflow's recipe (JSON)", nullable=True),
        column("seconds", pa.float64(), "wall time, calibration included, start-up excluded", unit="s", nullable=True),
        column("file_seconds", pa.float64(), "the same from files to files", unit="s", nullable=True),
        column("collect_seconds", pa.float64(), "of these, ptqflow's collect", unit="s", nullable=True),
        column("process_cpu_seconds", pa.float64(), "user and system time of the process", unit="s", nullable=True),
        column("peak_bytes", pa.int64(), "peak resident size of the process", unit="bytes", nullable=True),
        column("output_error", pa.float64(), "|block' - block|^2 / |block - input|^2, held-out, mean of blocks", nullable=True),
        column("perplexity", pa.float64(), "held-out; random models: of the float model's own predictions", nullable=True),
        column("absent", pa.string(), "why there is no figure, if there is none", nullable=True),
    ]
)
SYSTEMS = ("ptqflow", "llmcompressor", "gptqmodel")
THEIRS = {"convention": "compressed-tensors"}  # a symmetric step of max / 7.5: the peers' grid, so that the methods are compared
W4 = {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 128, **THEIRS}
W4_SYM, W3 = W4 | {"symmetric": True}, W4 | {"num_bits": 3}
W8A8 = {
    "weights": {"num_bits": 8, "symmetric": True, "strategy": "channel", **THEIRS},
    "input_activations": {"num_bits": 8, "symmetric": True},
}
AWQ = {"transform": {"name": "awq", "duo_scaling": True}, "error_propagation": False}
SMOOTH = {"transform": {"name": "smoothquant", "smoothing_strength": 0.8}}
GPTQ = {"rounding": {"name": "gptq"}}
# Method: its recipe here, what quantizes activations in the evaluator, and the peers that have it. The peers' own defaults: no
# MSE clip with GPTQ, duo scaling and no clip search with AWQ: so `awq-w4a16` sets our preset beside their default, and
# `awq-duo-w4a16` is ours with their settings.
METHODS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "rtn-w4a16": ({"scheme": {"weights": W4_SYM}}, "none", ("llmcompressor",)),
    "rtn-w3a16": ({"scheme": {"weights": W3 | {"symmetric": True}}}, "none", ("llmcompressor",)),
    "gptq-w4a16-sym": ({"scheme": {"weights": W4_SYM}, **GPTQ}, "none", ("llmcompressor", "gptqmodel")),
    "gptq-w4a16": ({"scheme": {"weights": W4}, **GPTQ}, "none", ("llmcompressor",)),
    "gptq-mse-w4a16": ({"preset": "gptq-w4a16"}, "none", ()),
    "awq-w4a16": ({"preset": "awq-w4a16"}, "none", ("llmcompressor",)),
    "awq-duo-w4a16": ({"scheme": {"weights": W4}, **AWQ}, "none", ()),
    "awq-gptq-w4a16": ({"preset": "awq-gptq-w4a16"}, "none", ()),
    "gptq-w3a16": ({"scheme": {"weights": W3}, **GPTQ}, "none", ("llmcompressor",)),
    "gptq-mse-w3a16": ({"preset": "gptq-w3a16"}, "none", ()),
    "gptq-hessian-w3a16": ({"preset": "gptq-hessian-w3a16"}, "none", ()),
    "awq-w3a16": ({"preset": "awq-w3a16"}, "none", ("llmcompressor",)),
    "awq-gptq-w3a16": ({"preset": "awq-gptq-w3a16"}, "none", ()),
    "smoothquant-rtn-w8a8": ({"scheme": W8A8, **SMOOTH}, "int8", ("llmcompressor",)),
    "smoothquant-gptq-w8a8": ({"scheme": W8A8, **SMOOTH, **GPTQ}, "int8", ("llmcompressor",)),
}


def grouped(entry: dict[str, Any], size: int) -> dict[str, Any]:
    """A recipe of METHODS with weights in groups of `size`."""
    scheme = entry.get("scheme", {})
    return entry | {"scheme": scheme | {"weights": scheme.get("weights", {}) | {"group_size": size}}}


def quantize(command: list[str], output: Path, log: Path) -> dict[str, Any]:
    """Run one system; its report, or why there is none."""
    environment = os.environ | (VARIABLES if command[0] == sys.executable else {})
    with log.open("w") as stream:
        code = subprocess.run(command, cwd=output.parent, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
    if code or not (output / "report.json").is_file():
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return {"absent": f"exit status {code}: {last[-1][:300] if last else 'no output'}"}
    return dict(json.loads((output / "report.json").read_text()))


def judge(model: Path, held_out: Path, activations: str, checkpoint: Path, truth: str) -> dict[str, Any]:
    """output_error and perplexity of dense weights."""
    command = [sys.executable, HERE / "peer_judge.py", model, held_out, activations, checkpoint, truth]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def version_of(python: Path, package: str) -> str | None:
    """Installed version of a package in another environment, None where there is no such environment."""
    if not python.is_file():
        return None
    code = f"from importlib.metadata import version; print(version('{package}'))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else None


def compare(name: str, methods: list[str], systems: dict[str, Path], folder: Path) -> list[dict[str, Any]]:
    """All rows of one model."""
    model = folder / "model"
    MODELS[name](model)
    tokens, held_out = folder / "tokens.parquet", folder / "held_out.parquet"
    group, truth = GROUP_SIZE.get(name, 128), "tokens" if name in TRAINED else "model"
    figures = judge(model, held_out, "none", model / "model.safetensors", truth)
    rows: list[dict[str, Any]] = [{"model": name, "method": "float", "system": "float", **figures}]
    for method in methods:
        entry, activations, peers = METHODS[method]
        recipe = json.dumps(resolve(grouped(entry, group) if method.endswith(("a16", "sym")) else entry).dump())
        for system in (s for s in ("ptqflow", *peers) if s in systems):
            output = folder / f"{method}.{system}"
            row = {"model": name, "method": method, "system": system}
            python = systems[system]
            row["version"] = metadata.version("ptqflow") if system == "ptqflow" else version_of(python, system)
            if row["version"] is None:
                row["absent"] = (
                    f"no environment: {python} is not there or lacks {system}; run make .venv-peers/.ready .venv-gptqmodel/.ready"
                )
            else:
                argument = recipe if system == "ptqflow" else method
                row |= {"settings": recipe} if system == "ptqflow" else {}
                command = [str(python), str(HERE / f"peer_{system}.py"), str(model), str(tokens), argument, str(output)]
                command += [] if system == "ptqflow" else [str(group)]
                row |= quantize(command, output, folder / f"{method}.{system}.log")
            if "absent" not in row:
                row["process_cpu_seconds"] = row.pop("cpu_seconds")
                row |= judge(model, held_out, activations, output / "model.safetensors", truth)
                (output / "model.safetensors").unlink()
            news = row.get("absent") or f"{row['seconds']:.1f} s"
            print(f"{name} {method} {system}: {news}", file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per row, with the peers' figures over ours."""
    lines = [
        "| model | method | system | seconds | from files to files | CPU s | peak MB | output error | perplexity "
        "| x ours: time | files | memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["system"] == "float":
            lines.append(f"| {row['model']} | float | – | | | | | | {row['perplexity']:.4f} | | | |")
            continue
        if row.get("absent"):
            lines.append(f"| {row['model']} | {row['method']} | {row['system']} | absent: {row['absent']} | | | | | | | | |")
            continue
        ours = next(
            (
                r
                for r in rows
                if (r["model"], r["method"], r["system"]) == (row["model"], row["method"], "ptqflow") and "seconds" in r
            ),
            None,
        )
        ratios = " | | |"
        if ours is not None and ours is not row:
            ratios = (
                " " + " | ".join(f"{row[name] / ours[name]:.2f}" for name in ("seconds", "file_seconds", "peak_bytes")) + " |"
            )
        lines.append(
            f"| {row['model']} | {row['method']} | {row['system']} | {row['seconds']:.1f} | {row['file_seconds']:.1f} "
            f"| {row['process_cpu_seconds']:.1f} | {row['peak_bytes'] / 1e6:.0f} | {row['output_error']:.3e} "
            f"| {row['perplexity']:.4f} |{ratios}"
        )
    return "\n".join(lines)


def main() -> None:
    """Compare on every model, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["demo", "random-111m"])
    parser.add_argument("--platform", choices=PLATFORMS, default="cpu", help="where ptqflow computes; peers take a GPU they find")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--llmcompressor", type=Path, default=ROOT / ".venv-peers/bin/python", help="Python that has it")
    parser.add_argument("--gptqmodel", type=Path, default=ROOT / ".venv-gptqmodel/bin/python", help="Python that has it")
    parser.add_argument("--layer-errors", action="store_true", help="ptqflow measures them, too, which peers do not")
    parser.add_argument("--threads", type=int, default=2, help="OpenMP threads of each system")
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench/peers.parquet")
    parser.add_argument("--keep", type=Path, help="folder to work in and leave, instead of a temporary one")
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1", "PTQFLOW_BENCH_PLATFORM": args.platform}
    os.environ["PTQFLOW_BENCH_LAYER_ERRORS"] = json.dumps(args.layer_errors)
    os.environ.pop("GOMP_SPINCOUNT", None)  # peers run as they would by themselves
    pythons = {"ptqflow": Path(sys.executable), "llmcompressor": args.llmcompressor, "gptqmodel": args.gptqmodel}
    systems = {name: pythons[name] for name in SYSTEMS if name in args.systems}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.models:
            rows += compare(name, args.methods, systems, (args.keep or Path(temporary)) / name)
            settings = {"threads": args.threads, "platform": args.platform, "layer_errors": args.layer_errors}
            write_rows(args.output, SCHEMA, rows, provenance("bench-peers", settings, ""))
            print(table(rows), flush=True)


if __name__ == "__main__":
    main()
