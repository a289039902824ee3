"""How often verdicts contradict each other when the demo is quantized again from other calibration draws.

`python benchmarks/verdicts.py --draws 20` quantizes and evaluates each recipe once per draw (calibration seed 0, 1, ...) with the
stages themselves, in one process, and keeps what it has: run it again and it goes on. Then each draw is a study of its own, as a
user would have run it, and the printed verdicts of every pair of draws are compared.
"""

import argparse
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
from ptqflow import checked, configfile, study
from ptqflow.artifacts.schemas import SAMPLES
from ptqflow.artifacts.tables import read_table
from ptqflow.cli import main
from ptqflow.evaluation.decision import drop_class
from ptqflow.jobs import Jobs
from ptqflow.reporting import accuracy, runs
from ptqflow.reporting.variants import BASELINE, Served

FORM = "fake"


def stage(name: str, settings: Any, output: Path, *options: Any) -> Path:
    """Run one stage, unless its output is there."""
    told = settings if isinstance(settings, str) else json.dumps(settings)
    if not output.exists() and main([name, "--settings", told, *map(str, options)]):
        raise SystemExit(f"{name} failed")
    return output


def ask(jobs: Jobs, model: str, checkpoint: Path, folder: Path, tasks: list[str]) -> None:
    """Scores of a model's checkpoint on all tasks, in `folder`."""
    for task in tasks:
        said, scored = folder / f"{task}.generations.parquet", folder / f"{task}.parquet"
        options = ["--platform", "cpu", "--checkpoint", checkpoint, "--output", said]
        stage("generate", jobs.generate(model, "transformers", task, 0), said, *options)
        stage("score", jobs.score(task), scored, "--generations", said, "--output", scored)


def draw_all(root: Path, recipes: list[str], draws: int, tasks: list[str]) -> None:
    """The scores of every recipe from every draw, draws outermost, so that an interrupted run has whole draws."""
    config = configfile.read("config.yaml") | {"run": recipes}
    jobs = Jobs(checked.load(config))
    name = next(iter(jobs.study.models))
    model = stage("fetch", jobs.fetch(name), root / "model/manifest.json", "--output", root / "model/manifest.json")
    layers = [0, study.layers_of(jobs.study, name)]
    ask(jobs, name, model, root / "baseline", tasks)
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
            ask(jobs, name, checkpoint, place / recipe, tasks)
            print(f"draw {draw} {recipe}: done", flush=True)


def scored(folder: Path, recipe: str, replicate: int, tasks: list[str]) -> list[tuple[Served, pa.Table]]:
    """The tables of one checkpoint."""
    form = None if recipe == BASELINE else FORM
    who = Served(platform="cpu", model="demo", recipe=recipe, form=form, replicate=replicate, engine="transformers")
    return [(who, read_table(folder / f"{task}.parquet", SAMPLES, runs.READS)) for task in tasks]


def report(root: Path, recipes: list[str], tasks: list[str]) -> None:
    """Print each recipe's verdicts and how many pairs of them contradict each other, before and now."""
    print("| recipe | draws | drop (points) | between draws | most probable class of each | contradict | verdicts | contradict |")
    print("|---|---:|---:|---:|---|---:|---|---:|")
    for recipe in recipes:
        folders = [place / recipe for place in sorted(root.glob("draw=*"), key=lambda p: int(p.name[5:]))]
        folders = [folder for folder in folders if all((folder / f"{task}.parquet").is_file() for task in tasks)]
        baseline = scored(root / "baseline", BASELINE, 0, tasks)
        rows, probable = [], []
        for folder in folders:
            found = runs.gather([*baseline, *scored(folder, recipe, 0, tasks)])
            rows.append(average_of(accuracy.build(found), recipe))
            alone = average_of(accuracy.build(found, exact=set(found)), recipe)  # the noise of items alone, as it was
            probable.append(drop_class(alone["p_lossless"], alone["p_fair"], alone["p_risky"])[0])
        every = [table for k, folder in enumerate(folders) for table in scored(folder, recipe, k, tasks)]
        together = average_of(accuracy.build(runs.gather([*baseline, *every])), recipe)
        verdicts = [row["verdict"] for row in rows]
        drops = [row["drop"] for row in rows]
        drop = f"{together['drop']:.1f} ({min(drops):.1f} to {max(drops):.1f}) | {together['replicate_sd']:.2f}"
        before, now = (f"{counted(names)} | {contradictions(names):.0%}" for names in (probable, verdicts))
        print(f"| {recipe} | {len(rows)} | {drop} | {before} | {now} |")


def average_of(rows: list[dict[str, Any]], recipe: str) -> dict[str, Any]:
    """The row of a recipe's average."""
    return next(row for row in rows if (row["recipe"], row["task"]) == (recipe, runs.AVERAGE))


def counted(names: list[str]) -> str:
    """How often each occurs."""
    return ", ".join(f"{count} {name}" for name, count in Counter(names).most_common())


def contradictions(names: list[str]) -> float:
    """Share of pairs of studies that name different classes; undecided contradicts nothing."""
    pairs = list(itertools.combinations(names, 2))
    return sum(a != b and "undecided" not in (a, b) for a, b in pairs) / max(len(pairs), 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20, help="calibration seeds 0, 1, ...")
    parser.add_argument("--recipes", nargs="+", default=["awq-w4", "gptq-w4"], help="recipes of config.yaml")
    parser.add_argument("--tasks", nargs="+", default=["arithmetic", "arithmetic-hard", "facts"], help="tasks of config.yaml")
    parser.add_argument("--folder", type=Path, default=Path("results/bench/verdicts"), help="where the draws are kept")
    args = parser.parse_args()
    draw_all(args.folder, args.recipes, args.draws, args.tasks)
    report(args.folder, args.recipes, args.tasks)
