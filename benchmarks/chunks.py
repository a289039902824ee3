"""What is lost by cutting a model into chunks: errors, perplexity and accuracy on the demo model at 1, 2 and 4 chunks.

    python benchmarks/chunks.py

Within a chunk, `error_propagation` hands each block the quantized output of the one before; at a chunk's first block inputs are
float. Prints a table and writes results/bench/chunks.parquet. The final hidden states are those of the text task's windows.
Checkpoints that come out equal, byte for byte, are evaluated once.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.schemas import SAMPLES
from ptqflow.artifacts.tables import column, read_table, write_rows
from ptqflow.chunks import chunk_layers
from ptqflow.cli import main as ptqflow
from ptqflow.evaluation.requests.perplexity import windows
from ptqflow.presets import resolve
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "resources/demo-model"
RECIPES = ("gptq-w4a16", "gptq-w3a16", "smoothquant-w8a8kv8")
PROBLEMS = ("arithmetic", "arithmetic-hard")
WINDOW = 256
SCHEMA = pa.schema(
    [
        column("recipe", pa.string(), "preset"),
        column("error_propagation", pa.bool_(), "whether blocks see quantized inputs within a chunk"),
        column("chunks", pa.int32(), "chunks of the model"),
        column("sha256", pa.string(), "of the checkpoint's weights"),
        column("hidden_error", pa.float64(), "squared error of the final hidden states, relative to the float model's"),
        column("perplexity", pa.float64(), "of the text task"),
        *(column(name, pa.float64(), "exact answers, greedy decoding", unit="percent") for name in PROBLEMS),
    ]
)


def stage(name: str, settings: dict[str, Any], *options: object) -> None:
    """One stage, through the command line."""
    if status := ptqflow([name, "--settings", json.dumps(settings), *map(str, options)]):
        raise SystemExit(status)


def text_windows() -> torch.Tensor:
    """Token windows [n, WINDOW] of the text task."""
    lines = (ROOT / "resources/tasks/text/test.jsonl").read_text().splitlines()
    text = "\n\n".join(json.loads(line)["text"] for line in lines)
    return windows(AutoTokenizer.from_pretrained(MODEL)(text, verbose=False).input_ids, WINDOW)


@torch.inference_mode()
def final_hidden(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Hidden states [n, WINDOW, hidden] after the last norm, float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return torch.cat([model.model(input_ids=part, use_cache=False).last_hidden_state for part in tokens.split(16)])


def evaluate(checkpoint: Path, folder: Path) -> dict[str, float]:
    """Perplexity and percent of exact answers of a checkpoint's manifest."""

    def samples(task: str, benchmark: str, **protocol: Any) -> list[dict[str, Any]]:
        source = {"path": str(ROOT / f"resources/tasks/{task}")}
        settings = {"task": task, "benchmark": benchmark, "source": source, "protocol": protocol, "batch_size": 100}
        said = folder / f"{task}.generations.parquet"
        stage("generate", settings, "--platform", "cpu", "--checkpoint", checkpoint, "--output", said)
        stage("score", {"benchmark": benchmark}, "--generations", said, "--output", folder / f"{task}.parquet")
        return read_table(folder / f"{task}.parquet", SAMPLES, ["correct", "nll", "completion_tokens"]).to_pylist()

    asked = {"limit": 200, "max_new_tokens": 256, "temperature": 0}
    scores = {name: [row["correct"] for row in samples(name, "problems", **asked)] for name in PROBLEMS}
    text = [(row["nll"], row["completion_tokens"]) for row in samples("text", "text", window=WINDOW)]
    nll, count = (sum(values) for values in zip(*text, strict=True))
    return {"perplexity": float(torch.tensor(nll / count).exp())} | {n: 100 * sum(c) / len(c) for n, c in scores.items()}


def main() -> None:
    """Quantize, evaluate and print every combination."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="presets")
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench/chunks.parquet")
    args = parser.parse_args()
    layers = json.loads((MODEL / "config.json").read_text())["num_hidden_layers"]
    tokens = text_windows()
    exact = final_hidden(MODEL, tokens)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model, sequences = work / "model/manifest.json", work / "tokens.parquet"
        stage("fetch", {"path": str(MODEL)}, "--output", model)
        traces = {"source": {"path": str(ROOT / "resources/calibration/traces.jsonl")}, "format": "chat"}
        stage("tokens", {**traces, "samples": 64, "sequence_length": 256}, "--model", model, "--output", sequences)
        known: dict[str, dict[str, float]] = {}
        for chunks in (1, 2, 4):
            calibration = work / f"calibration-{chunks}/manifest.json"
            stage("collect", {"chunks": chunks}, "--model", model, "--tokens", sequences, "--output", calibration)
            for preset, propagate in ((preset, propagate) for preset in args.recipes for propagate in (True, False)):
                recipe = resolve({"preset": preset, "error_propagation": propagate})
                place = work / f"{preset}-{chunks}-{propagate}"
                parts = [place / f"chunk={k}/qparams.safetensors" for k in range(chunks)]
                for k, chunk in enumerate(chunk_layers(layers, chunks)):
                    settings = {"recipe": recipe.for_layers(chunk).dump(), "chunk": k, "layers": [chunk.start, chunk.stop]}
                    inputs = ("--model", model, "--calibration", calibration)
                    stage("quantize", settings, *inputs, "--qparams", parts[k], "--diagnostics", parts[k].with_name("d.parquet"))
                checkpoint = place / "fake/manifest.json"
                export = {"recipe": recipe.dump(), "form": "fake"}
                stage("export", export, "--model", model, "--qparams", *parts, "--output", checkpoint)
                digest = HashCache().sha256(place / "fake/model.safetensors")
                if digest not in known:
                    error = (final_hidden(place / "fake", tokens) - exact).square().sum() / exact.square().sum()
                    known[digest] = {"hidden_error": float(error), **evaluate(checkpoint, place)}
                who = {"recipe": preset, "error_propagation": propagate, "chunks": chunks, "sha256": digest}
                rows.append(who | known[digest])
                print(rows[-1], file=sys.stderr)
    write_rows(args.output, SCHEMA, rows, provenance("bench", {"recipes": list(args.recipes)}, ""))
    print("| recipe | error_propagation | chunks | hidden error | perplexity | arithmetic | arithmetic-hard |")
    print("|---|---|---|---:|---:|---:|---:|")
    for row in sorted(rows, key=lambda row: (args.recipes.index(row["recipe"]), not row["error_propagation"], row["chunks"])):
        numbers = f"{row['hidden_error']:.3e} | {row['perplexity']:.4f} | {row['arithmetic']:.1f} | {row['arithmetic-hard']:.1f}"
        print(f"| {row['recipe']} | {str(row['error_propagation']).lower()} | {row['chunks']} | {numbers} |")


if __name__ == "__main__":
    main()
