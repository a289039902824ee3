"""How often verdicts contradict each other when the demo is quantized again from other calibration draws.

`python benchmarks/verdicts.py --draws 20` quantizes and evaluates each recipe once per draw (calibration seed 0, 1, ...) with the
stages themselves, in one process, and keeps what it has: run it again and it goes on. Then each draw is a study of its own, as a
user would have run it, and the printed verdicts of every pair of draws are compared.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptqflow import configfile, study
from ptqflow.cli import main
from ptqflow.jobs import Jobs

FORM = "fake"


def stage(name: str, settings: Any, output: Path, *options: Any) -> Path:
    """Run one stage, unless its output is there."""
    told = settings if isinstance(settings, str) else json.dumps(settings)
    if not output.exists() and main([name, "--settings", told, *map(str, options)]):
        raise SystemExit(f"{name} failed")
    return output


def scores_of(jobs: Jobs, model: Path, checkpoint: Path, folder: Path, tasks: list[str]) -> Iterator[Path]:
    """Ask a checkpoint all tasks."""
    del model
    for task in tasks:
        said, scored = folder / f"{task}.generations.parquet", folder / f"{task}.parquet"
        options = ["--platform", "cpu", "--checkpoint", checkpoint, "--output", said]
        stage("generate", jobs.generate("transformers", task, 0), said, *options)
        yield stage("score", jobs.score(task), scored, "--generations", said, "--output", scored)


def draw_all(root: Path, recipes: list[str], draws: int, tasks: list[str]) -> None:
    """The scores of every recipe from every draw, draws outermost, so that an interrupted run has whole draws."""
    config = configfile.read("config.yaml") | {"run": recipes}
    jobs = Jobs(study.load(config))
    name = next(iter(jobs.study.models))
    model = stage("fetch", jobs.fetch(name), root / "model/manifest.json", "--output", root / "model/manifest.json")
    layers = [0, study.layers_of(jobs.study, name)]
    list(scores_of(jobs, model, model, root / "baseline", tasks))
    for draw in range(draws):
        place = root / f"draw={draw}"
        told = json.loads(jobs.tokens(jobs.study.calibration)) | {"seed": draw}
        tokens = stage("tokens", told, place / "tokens.parquet", "--model", model, "--output", place / "tokens.parquet")
        for recipe in recipes:
            quantized, checkpoint = place / recipe / "qparams.safetensors", place / recipe / FORM / "manifest.json"
            settings = json.loads(jobs.quantize(name, recipe, 0)) | {"chunk": 0, "layers": layers}
            options = ["--model", model, "--tokens", tokens, "--qparams", quantized]
            stage("quantize", settings, quantized, *options, "--diagnostics", place / recipe / "diagnostics.parquet")
            options = ["--model", model, "--qparams", quantized, "--output", checkpoint]
            stage("export", jobs.export(recipe, FORM), checkpoint, *options)
            list(scores_of(jobs, model, checkpoint, place / recipe, tasks))
            print(f"draw {draw} {recipe}: done", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20, help="calibration seeds 0, 1, ...")
    parser.add_argument("--recipes", nargs="+", default=["awq-w4", "gptq-w4"], help="recipes of config.yaml")
    parser.add_argument("--tasks", nargs="+", default=["arithmetic", "arithmetic-hard", "facts"], help="tasks of config.yaml")
    parser.add_argument("--folder", type=Path, default=Path("results/bench/verdicts"), help="where the draws are kept")
    args = parser.parse_args()
    draw_all(args.folder, args.recipes, args.draws, args.tasks)
