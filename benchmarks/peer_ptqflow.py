"""One quantization by ptqflow's own stages, collect and quantize, in one process; usage and output as peer_llmcompressor.py.

Timed: both stages whole, from the files they read and verify to the files they write. METHOD is a recipe as JSON.
"""

import json
import resource
import sys
import time
from argparse import Namespace
from pathlib import Path

from ptqflow.artifacts.manifests import Manifest
from ptqflow.checkpoints import dense
from ptqflow.modeling.qparams import QParams
from ptqflow.recipes import Recipe
from ptqflow.stages import collect, quantize


def main() -> None:
    """Collect and quantize (timed), then write the dense checkpoint."""
    model, tokens, output = Path(sys.argv[1]) / "manifest.json", Path(sys.argv[2]), Path(sys.argv[4])
    recipe = Recipe.model_validate_json(sys.argv[3])
    layers = json.loads((model.parent / "config.json").read_text())["num_hidden_layers"]
    calibration, qparams = output / "calibration/manifest.json", output / "qparams.safetensors"
    common = {"platform": "cpu", "model": model, "code": None}
    start = time.perf_counter()
    collect.run(collect.Settings(chunks=1), Namespace(**common, tokens=tokens, output=calibration))
    collected = time.perf_counter()
    paths = {"calibration": calibration, "qparams": qparams, "diagnostics": output / "diagnostics.parquet", "losses": None}
    quantize.run(quantize.Settings(recipe=recipe, chunk=0, layers=(0, layers)), Namespace(**common, **paths))
    seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    report = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": usage.ru_maxrss * 1024}
    report["collect_seconds"] = collected - start
    dense.write(model.parent, Manifest.read(model).files, QParams([qparams]), recipe, output)
    (output / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
