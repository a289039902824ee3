"""`make check-engines`: every form of checkpoint in every engine that is to serve it, against the fake form in transformers.

1. Checkpoints of the demo model, by the workflow itself, in build/engines (`study.yaml`; what is there is not made again).
2. Reference logits of fixed prompts, by transformers with the fake form.
3. A proof per engine, in the engine's own environment: `<engine>_proof.py --work build/engines/work --output rows.json`; a row
   has the keys of `schemas.ENGINES`.
4. The table: printed, and written to results/engines.parquet and results/engines.md. Exit status 1 where a proof failed.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from ptqflow.artifacts import schemas
from ptqflow.artifacts.atomic import write_text
from ptqflow.artifacts.tables import write_rows
from ptqflow.reporting.render import Grid, markdown, number
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
BUILD = REPOSITORY / "build" / "engines"
PROMPTS, LENGTH = 8, 96


@dataclass(frozen=True)
class Proof:
    """An engine's environment, the forms it must read, and with which recipes."""

    environment: str
    recipes: Mapping[str, Sequence[str]]
    tests: str | None = None  # more laws, for the pytest of that environment

    @property
    def python(self) -> Path:
        """The interpreter that runs the proof."""
        return REPOSITORY / self.environment / "bin" / "python"


FAKE = ["rtn-w4", "rtn-w8a8kv8", "flatquant-w4a4kv4"]
PROOFS = {
    "vllm": Proof(".venv-vllm", {"float": ["baseline"], "fake": FAKE}, "test_vllm_plugin.py"),
}


@dataclass(frozen=True)
class Limit:
    """How far an engine may be from the fake form (docs/engines.md says what was measured)."""

    mean_logit_difference: float
    perplexity_change: float  # relative


EXACT = Limit(1e-4, 1e-4)  # float32, no quantizer at run time: only the order of sums differs
TIES = Limit(0.05, 0.01)  # float32: a value at a rounding boundary goes the other way, and so do those after it
BFLOAT16 = Limit(0.15, 0.02)  # rounding of activations differs wherever kernels do


def limit_of(row: Mapping[str, Any], recipes: Mapping[str, Any]) -> Limit:
    """The limit for a row: by its number type, and by whether the recipe quantizes activations."""
    if row.get("dtype") != "float32":
        return BFLOAT16
    return EXACT if row["recipe"] in ("baseline", "rtn-w4") else TIES


def make_checkpoints(study: dict[str, Any], wanted: set[tuple[str, str]], work: Path) -> None:
    """Run the workflow for the (recipe, form) pairs and link each checkpoint as `work/{recipe}.{form}`."""
    BUILD.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    for entry in [*study["models"].values(), *study["calibrations"].values()]:
        entry["source"]["path"] = str(REPOSITORY / entry["source"]["path"])
    write_text(BUILD / "config.yaml", yaml.safe_dump(study, sort_keys=False))
    _link(BUILD / "workflow", REPOSITORY / "workflow")
    folders = {pair: f"results/cpu/checkpoints/demo/{'/'.join(pair)}" for pair in wanted if pair[1] != "float"}
    folders[("baseline", "float")] = "results/models/demo"
    command = ["snakemake", "--snakefile", "Snakefile", "--directory", BUILD, "--profile", "local", "--quiet", "all"]
    command += [f"--cores={os.environ.get('CORES', 'all')}", *(f"{folder}/manifest.json" for folder in folders.values())]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, cwd=REPOSITORY, env=os.environ | {"PATH": path}, check=True)
    for stale in work.glob("*.*"):
        stale.unlink()
    for (recipe, form), folder in folders.items():
        _link(work / f"{recipe}.{form}", BUILD / folder)


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@torch.inference_mode()
def write_references(work: Path, recipes: set[str]) -> None:
    """`references/{recipe}.safetensors`: prompts, and the logits of the fake form (of the float model for `baseline`)."""
    texts = [json.loads(line)["text"] for line in (REPOSITORY / "resources/tasks/text/test.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(work / "baseline.float")
    stream = tokenizer(" ".join(texts), return_tensors="pt").input_ids[0]
    tokens = stream[: PROMPTS * LENGTH].view(PROMPTS, LENGTH).contiguous()
    (work / "references").mkdir(exist_ok=True)
    for recipe in sorted(recipes):
        folder = work / (f"{recipe}.float" if recipe == "baseline" else f"{recipe}.fake")
        tensors = {"tokens": tokens}
        for dtype in ("float32", "bfloat16"):
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
            tensors[dtype] = model(tokens).logits.float()
        save_file(tensors, work / "references" / f"{recipe}.safetensors")


def run_proof(name: str, proof: Proof, work: Path) -> list[dict[str, Any]]:
    """The rows of one engine, one at least for each checkpoint that it must read."""
    if not proof.python.exists():
        raise SystemExit(f"{proof.python} does not exist; run `make check-engines ENGINES={name}`, which builds it")
    output = BUILD / f"{name}.json"
    output.unlink(missing_ok=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    script = HERE / f"{name}_proof.py"
    done = subprocess.run([proof.python, script, "--work", work, "--output", output], env=environment, check=False)
    rows = json.loads(output.read_text()) if output.exists() else []
    wanted = {(recipe, form) for form, recipes in proof.recipes.items() for recipe in recipes}
    rows = [row for row in rows if (row["recipe"], row["form"]) in wanted]
    missing = wanted - {(row["recipe"], row["form"]) for row in rows}
    message = f"the proof wrote no row (exit status {done.returncode})"
    return rows + [{"recipe": r, "form": f, "engine": name, "loaded": False, "message": message} for r, f in sorted(missing)]


def judged(row: dict[str, Any], recipes: Mapping[str, Any], baseline_bytes: int) -> dict[str, Any]:
    """The row with `passed`, and why not."""
    row = {"dtype": "", "message": ""} | row | {"baseline_bytes": baseline_bytes, "passed": bool(row["loaded"])}
    if not row["loaded"]:
        return row
    limit, why = limit_of(row, recipes), []
    if not row["mean_logit_difference"] <= limit.mean_logit_difference:
        why.append(f"mean logit difference above {limit.mean_logit_difference}")
    if row.get("perplexity") and not abs(row["perplexity"] / row["reference_perplexity"] - 1) <= limit.perplexity_change:
        why.append(f"perplexity differs by more than {limit.perplexity_change:.2%}")
    return row | {"passed": not why, "message": "; ".join([*why, row["message"]]).strip("; ")}


def table(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """What is printed."""
    header = ["form", "recipe", "engine", "type", "load s", "max Δ", "mean Δ", "mean Δlog p", "perplexity", "fake", "bytes", "%", ""]

    def cells(row: Mapping[str, Any]) -> list[str]:
        def value(key: str, digits: int) -> str:
            return number(row.get(key), digits)

        share = number(100 * row["bytes"] / row["baseline_bytes"], 1) if row.get("bytes") else "–"
        verdict = ("ok " if row["passed"] else "FAILED ") + row["message"]
        differences = [value(key, 5) for key in ("max_logit_difference", "mean_logit_difference", "mean_logprob_difference")]
        perplexities = [value("perplexity", 4), value("reference_perplexity", 4)]
        names = [row[key] for key in ("form", "recipe", "engine", "dtype")]
        size = f"{row['bytes']:,}" if row.get("bytes") else "–"
        return [*names, value("load_seconds", 1), *differences, *perplexities, size, share, verdict.strip()]

    notes = ["Δ: difference of logits from the fake form in transformers, each position's mean taken off; %: of the float model."]
    return Grid("Checkpoints in engines", header, [cells(row) for row in rows], names=4, notes=notes)


def main() -> int:
    """Prove the engines named on the command line; 0 when all passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", choices=PROOFS)
    engines = parser.parse_args().engines
    study = yaml.safe_load((HERE / "study.yaml").read_text())
    wanted = {(recipe, form) for name in engines for form, recipes in PROOFS[name].recipes.items() for recipe in recipes}
    recipes = {recipe for recipe, _ in wanted}
    work = BUILD / "work"
    make_checkpoints(study, wanted | {(recipe, "fake") for recipe in recipes - {"baseline"}}, work)
    write_references(work, recipes)
    baseline_bytes = sum(path.stat().st_size for path in (work / "baseline.float").glob("*.safetensors"))
    rows, status = [], 0
    for name in engines:
        found = run_proof(name, PROOFS[name], work)
        rows += [judged(row, study["recipes"], baseline_bytes) for row in sorted(found, key=lambda row: (row["form"], row["recipe"]))]
        if tests := PROOFS[name].tests:
            environment = os.environ | {"PTQFLOW_ENGINE_WORK": str(work)}
            command = [PROOFS[name].python, "-m", "pytest", "-q", HERE / tests]
            status |= subprocess.run(command, env=environment, cwd=REPOSITORY, check=False).returncode
    write_rows(REPOSITORY / "results" / "engines.parquet", schemas.ENGINES, rows, {"prompts": PROMPTS, "tokens": LENGTH})
    text = markdown([table(rows)])
    write_text(REPOSITORY / "results" / "engines.md", text)
    print(text)
    return 1 if status or not all(row["passed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
