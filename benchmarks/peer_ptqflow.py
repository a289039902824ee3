"""One quantization by ptqflow's own stages; usage and output as peer_llmcompressor.py. METHOD is a recipe as JSON.

With PTQFLOW_BENCH_LAYER_ERRORS=true it is measured what linears and blocks lose (`layer_errors` of a study, its default).

As in the workflow, collect (where the recipe reads its statistics) and quantize are processes of their own; this script starts
itself once for each. Timed: stages whole, from the files they read and verify to the files they write, which lie in
OUTPUT.stages. peak_bytes: of the larger process.
"""

import json
import os
import resource
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

from peer_memory import peak_bytes
from ptqflow.modeling.anatomy import architecture_of
from ptqflow.recipes import Recipe
from ptqflow.stages import collect, export, quantize

PLATFORM = os.environ.get("PTQFLOW_BENCH_PLATFORM", "cpu")
LAYER_ERRORS = os.environ.get("PTQFLOW_BENCH_LAYER_ERRORS") == "true"


def collected(model: Path, tokens: Path, stages: Path) -> None:
    """The stage collect, one chunk."""
    arguments = Namespace(platform=PLATFORM, model=model, code=None, tokens=tokens, output=stages / "calibration/manifest.json")
    collect.run(collect.Settings(chunks=1), arguments)


def quantized(model: Path, recipe: Recipe, tokens: Path, stages: Path) -> None:
    """The stage quantize on that chunk."""
    layers = json.loads((model.parent / "config.json").read_text())["num_hidden_layers"]
    reads = {"calibration": stages / "calibration/manifest.json", "tokens": None}
    if not recipe.reads_statistics():
        reads = {"calibration": None, "tokens": tokens}
    writes = {"qparams": stages / "qparams.safetensors", "diagnostics": stages / "diagnostics.parquet", "losses": None}
    arguments = Namespace(platform=PLATFORM, model=model, code=None, **reads, **writes)
    quantize.run(quantize.Settings(recipe=recipe, chunk=0, layers=(0, layers), layer_errors=LAYER_ERRORS), arguments)


def main() -> None:
    """Run one stage (timed, where a fifth argument names it), or both and then write the dense checkpoint."""
    model, tokens, output = Path(sys.argv[1]) / "manifest.json", Path(sys.argv[2]), Path(sys.argv[4])
    stages = output.with_name(output.name + ".stages")
    recipe = Recipe.model_validate_json(sys.argv[3])
    if len(sys.argv) == 6:
        architecture_of(json.loads(model.with_name("config.json").read_text())).class_of("DecoderLayer")  # imports its module
        start = time.perf_counter()
        collected(model, tokens, stages) if sys.argv[5] == "collect" else quantized(model, recipe, tokens, stages)
        seconds = time.perf_counter() - start
        usage = resource.getrusage(resource.RUSAGE_SELF)
        report = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": peak_bytes()}
        (stages / f"{sys.argv[5]}.json").write_text(json.dumps(report))
        return
    stages.mkdir(parents=True, exist_ok=True)
    reports = {}
    for stage in ("collect", "quantize") if recipe.reads_statistics() else ("quantize",):
        subprocess.run([sys.executable, *sys.argv, stage], check=True)
        reports[stage] = json.loads((stages / f"{stage}.json").read_text())
    both = list(reports.values())
    report = {name: sum(r[name] for r in both) for name in ("seconds", "cpu_seconds")}
    collecting = reports["collect"]["seconds"] if "collect" in reports else 0.0
    report |= {"peak_bytes": max(r["peak_bytes"] for r in both), "collect_seconds": collecting, "file_seconds": report["seconds"]}
    paths = {"qparams": [stages / "qparams.safetensors"], "output": output / "manifest.json"}
    export.run(export.Settings(recipe=recipe, form="fake"), Namespace(model=model, notices=None, code=None, **paths))
    (output / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
