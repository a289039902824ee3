"""`make check-engines`: every form of checkpoint in every engine that is to serve it, against the fake form in transformers.

1. Checkpoints of the demo model, by the workflow itself, in build/engines (`study.yaml`; what is there is not made again).
2. Reference logits of fixed prompts, by transformers with the fake form.
3. A proof per engine, in the engine's own environment: `<engine>_proof.py --work build/engines/<engine> --output rows.json`. The
   work folder holds a checkpoint per folder `{recipe}.{form}`, and `references/{recipe}.safetensors`; a row has the keys of
   `schemas.ENGINES`, `refused_as_stated` where the engine was to refuse, and `not_run` where this machine cannot show it.
4. The table: printed, and written to results/engines.parquet and results/engines.md. Exit status 1 where a proof failed. What an
   engine has no right kernel for on this machine is not run, and named below the table.
"""

import argparse
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from compare import bytes_of, differences
from ptqflow.artifacts import schemas
from ptqflow.artifacts.atomic import write_text
from ptqflow.artifacts.tables import write_rows
from ptqflow.presets import resolve
from ptqflow.reporting.render import TextTable, markdown, number
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
BUILD = REPOSITORY / "build" / "engines"
REFERENCES = BUILD / "references"
PROMPTS, LENGTH = 8, 96


@dataclass(frozen=True)
class Proof:
    """An engine's environment and the recipes of each form that it must read.

    `fakes`: the proof itself compares with the fake form of each recipe, and with the float model. `tests`: files of more
    tests, for the environment's pytest.
    """

    environment: str
    recipes: Mapping[str, Sequence[str]]
    fakes: bool = False
    tests: Sequence[str] = ()

    @property
    def python(self) -> Path:
        """The interpreter that runs the proof."""
        return REPOSITORY / self.environment / "bin" / "python"

    def checkpoints(self) -> set[tuple[str, str]]:
        """(recipe, form) of all that it must read."""
        return {(recipe, form) for form, recipes in self.recipes.items() for recipe in recipes}

    def recipe_names(self) -> set[str]:
        """The recipes of all that it must read."""
        return {recipe for recipe, _ in self.checkpoints()}

    def restricted(self, recipes: Sequence[str] | None) -> "Proof":
        """The same of these recipes alone (None: of all)."""
        if recipes is None:
            return self
        return replace(self, recipes={form: [name for name in own if name in recipes] for form, own in self.recipes.items()})


W8A8 = ["rtn-w8a8", "smoothquant-w8a8-symmetric", "w8a8-static"]
PROOFS = {
    "transformers": Proof(".venv", {"compressed-tensors": ["awq-w4", "gptq-w4-symmetric", "rtn-w3", "rtn-w4a8", *W8A8]}),
    "vllm": Proof(
        ".venv-vllm",
        {
            "float": ["baseline"],
            "fake": ["rtn-w4", "rtn-w8a8kv8", "kvquant-kv4", "flatquant-w4a4", "flatquant-w4a4kv4"],
            "compressed-tensors": ["rtn-w4", "awq-w4", "gptq-w4-symmetric", "rtn-w4a8", *W8A8],
            "autoawq": ["awq-w4"],
            "gptq": ["gptq-w4-symmetric"],
        },
        tests=["test_vllm_kernels.py", "test_vllm_plugin.py", "test_vllm_engine.py"],
    ),
    "ascend": Proof(
        ".venv-ascend",
        {
            "modelslim": ["w8a16", "w8a8", "w8a8-static", "w4a4", "flatquant-w4a4", "vendor-w8a8", "vendor-w4a4"],
            "fake": ["w8a8", "rtn-w8a8kv8", "flatquant-w4a4", "flatquant-w4a4kv4"],
        },
        fakes=True,
    ),
    "gptqmodel": Proof(
        ".venv-gptqmodel",
        {"autoawq": ["awq-w4"], "gptq": ["gptq-w4-symmetric", "rtn-w4", "rtn-w3", "w8a16"]},
    ),
}


@dataclass(frozen=True)
class Limits:
    """How far an engine may be from the fake form, in parts of what the number type alone changes there (docs/engines.md).

    That part is the mean difference of the fake form's logits in bfloat16 from those in float32, both in transformers: what
    other kernels do to rounding. `perplexity_change` is relative.
    """

    of_number_type: float
    perplexity_change: float


LIMITS = {
    "float32": Limits(0.01, 1e-4),  # nothing is rounded: only the order of sums differs
    "float32, quantized activations": Limits(0.3, 0.01),  # values at a boundary round the other way, then those that follow
    "bfloat16": Limits(2.0, 0.03),  # two runs whose roundings are independent differ by the square root of 2
}


def limits_of(row: Mapping[str, Any], study: Mapping[str, Any]) -> Limits:
    """The limits for a row: by its number type, and by whether the recipe quantizes activations."""
    if row.get("dtype") != "float32":
        return LIMITS["bfloat16"]
    entry = study["recipes"].get(row["recipe"])
    return LIMITS["float32" if entry is None or resolve(entry).is_weight_only() else "float32, quantized activations"]


def make_checkpoints(study: dict[str, Any], wanted: set[tuple[str, str]]) -> dict[tuple[str, str], Path]:
    """Run the workflow for the (recipe, form) pairs; returns their folders. (`baseline`, `float`) is the float model."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for entry in [*study["models"].values(), *study["calibrations"].values()]:
        entry["source"]["path"] = str(REPOSITORY / entry["source"]["path"])
    write_text(BUILD / "config.yaml", yaml.safe_dump(study, sort_keys=False))
    _link(BUILD / "workflow", REPOSITORY / "workflow")
    folders = {(recipe, form): f"results/cpu/checkpoints/demo/{recipe}/{form}" for recipe, form in wanted if form != "float"}
    folders["baseline", "float"] = "results/models/demo"
    command = ["snakemake", "--snakefile", "Snakefile", "--directory", BUILD, "--profile", "local", "--quiet", "all"]
    command += [f"--cores={os.environ.get('CORES', 'all')}", *(f"{folder}/manifest.json" for folder in folders.values())]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, cwd=REPOSITORY, env=os.environ | {"PATH": path}, check=True)
    return {pair: BUILD / folder for pair, folder in folders.items()}


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def gather(work: Path, pairs: set[tuple[str, str]], folders: Mapping[tuple[str, str], Path]) -> None:
    """A proof's work folder: links to what it reads, and to the references."""
    work.mkdir(exist_ok=True)
    for stale in work.iterdir():
        stale.unlink()
    _link(work / "references", REFERENCES)
    for recipe, form in pairs:
        _link(work / f"{recipe}.{form}", folders[recipe, form])


@torch.inference_mode()
def write_references(folders: Mapping[tuple[str, str], Path]) -> dict[str, float]:
    """`references/{recipe}.safetensors`: prompts, and the logits of the fake form (of the float model for `baseline`).

    Returns, by recipe, the mean difference of logits between the two number types.
    """
    texts = [json.loads(line)["text"] for line in (REPOSITORY / "resources/tasks/text/test.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(folders["baseline", "float"])
    stream = torch.tensor([token for text in texts[: PROMPTS * 4] for token in tokenizer(text).input_ids])
    tokens = stream[: PROMPTS * LENGTH].view(PROMPTS, LENGTH).contiguous()
    REFERENCES.mkdir(exist_ok=True)
    changes = {}
    for (recipe, _), folder in sorted(pair for pair in folders.items() if pair[0][1] in ("fake", "float")):
        logits = {
            dtype: AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()(tokens).logits.float()
            for dtype in ("float32", "bfloat16")
        }
        save_file({"tokens": tokens, **logits}, REFERENCES / f"{recipe}.safetensors")
        changes[recipe] = differences(logits["bfloat16"], logits["float32"], tokens)["mean_logit_difference"]
    return changes


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
    rows = [row for row in rows if (row["recipe"], row["form"]) in proof.checkpoints() or "refused_as_stated" in row]
    missing = proof.checkpoints() - {(row["recipe"], row["form"]) for row in rows}
    message = f"the proof wrote no row (exit status {done.returncode})"
    return rows + [{"recipe": r, "form": f, "engine": name, "loaded": False, "message": message} for r, f in sorted(missing)]


def run_tests(name: str, proof: Proof) -> bool:
    """Whether the tests of an engine pass (True where it has none)."""
    if not proof.tests:
        return True
    environment = os.environ | {"PTQFLOW_ENGINE_WORK": str(BUILD / name)}
    command = [proof.python, "-m", "pytest", "-q", "--disable-warnings", *(HERE / test for test in proof.tests)]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, check=False)
    return done.returncode == 0


def judged(row: dict[str, Any], limits: Limits, number_type_change: float) -> dict[str, Any]:
    """The row with `passed` (None: not run), and why not."""
    row = {"dtype": "", "message": ""} | row
    if row.get("not_run"):
        return row | {"passed": None}
    if not row["loaded"]:
        return row | {"passed": row.get("refused_as_stated", False)}
    limit, why = limits.of_number_type * number_type_change, []
    if not row["mean_logit_difference"] <= limit:
        why.append(f"mean difference of logits above {limit:.5f}")
    if row.get("perplexity") and not abs(row["perplexity"] / row["reference_perplexity"] - 1) <= limits.perplexity_change:
        why.append(f"perplexity differs by more than {limits.perplexity_change:.2%}")
    return row | {
        "passed": not why,
        "number_type_change": number_type_change,
        "message": "; ".join([*why, row["message"]]).strip("; "),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    """What is printed."""
    header = [
        "form",
        "recipe",
        "engine",
        "type",
        "load s",
        "max Δ",
        "mean Δ",
        "bf16 Δ",
        "mean Δlog p",
        "perplexity",
        "fake",
        "bytes",
        "%",
        "",
    ]

    def cells(row: Mapping[str, Any]) -> list[str]:
        def value(key: str, digits: int) -> str:
            return number(row.get(key), digits)

        share = number(100 * row["bytes"] / row["baseline_bytes"], 1) if row.get("bytes") else "–"
        verdict = ("refused as stated: " if not row["loaded"] else "ok ") if row["passed"] else "FAILED "
        verdict = "" if row["passed"] is None else verdict
        verdict += textwrap.shorten(row["message"], 90, placeholder=" …")  # in full in the Parquet file
        differences = [
            value(key, 5)
            for key in ("max_logit_difference", "mean_logit_difference", "number_type_change", "mean_logprob_difference")
        ]
        perplexities = [value("perplexity", 4), value("reference_perplexity", 4)]
        names = [row[key] for key in ("form", "recipe", "engine", "dtype")]
        size = f"{row['bytes']:,}" if row.get("bytes") else "–"
        return [*names, value("load_seconds", 1), *differences, *perplexities, size, share, verdict.strip()]

    notes = [
        "Δ: difference of logits from the fake form in transformers, each position's mean taken off; %: of the float model.",
        "bf16 Δ: mean difference of the fake form's logits in bfloat16 from those in float32, in transformers.",
    ]
    left_out = [row for row in rows if row["passed"] is None]
    for why in dict.fromkeys(row["message"] for row in left_out):
        names = [f"{row['recipe']} ({row['form']}, {row['engine']})" for row in left_out if row["message"] == why]
        notes.append(f"{why}: {', '.join(names)}.")
    return TextTable("Checkpoints in engines", header, [cells(row) for row in rows], names=4, notes=notes)


def main() -> int:
    """Prove the engines named on the command line; 0 when all passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", choices=PROOFS)
    study = yaml.safe_load((HERE / "study.yaml").read_text())
    parser.add_argument("--recipes", nargs="+", choices=["baseline", *study["recipes"]], help="these alone (default: all)")
    args = parser.parse_args()
    engines = args.engines
    proofs = {name: PROOFS[name].restricted(args.recipes) for name in engines}
    wanted = {name: proof.checkpoints() for name, proof in proofs.items()}
    for name in engines:
        if not wanted[name]:
            parser.error(f"--recipes: {name} reads no checkpoint of these; name one of {sorted(PROOFS[name].recipe_names())}")
        if PROOFS[name].fakes:
            wanted[name] |= {(recipe, "fake") for recipe, _ in wanted[name]} | {("baseline", "float")}
    recipes = {recipe for pairs in wanted.values() for recipe, _ in pairs} - {"baseline"}
    folders = make_checkpoints(study, set().union(*wanted.values()) | {(recipe, "fake") for recipe in recipes})
    changes = write_references(folders)
    size = bytes_of(folders["baseline", "float"])
    rows = []
    for name in engines:
        gather(BUILD / name, wanted[name], folders)
        found = sorted(run_proof(name, proofs[name], BUILD / name), key=lambda row: (row["form"], row["recipe"]))
        rows += [judged(row, limits_of(row, study), changes.get(row["recipe"], 0.0)) | {"baseline_bytes": size} for row in found]
    known = [{key: value for key, value in row.items() if key in schemas.ENGINES.names} for row in rows]
    write_rows(REPOSITORY / "results" / "engines.parquet", schemas.ENGINES, known, {"prompts": PROMPTS, "tokens": LENGTH})
    text = markdown([table(rows)])
    write_text(REPOSITORY / "results" / "engines.md", text)
    print(text, flush=True)
    passed = [run_tests(name, PROOFS[name]) for name in engines]  # after the table: what failed is the last that a reader sees
    for row in (row for row in rows if row["passed"] is False):
        print(f"FAILED: {row['recipe']} ({row['form']}) in {row['engine']}: {row['message']}")
        passed.append(False)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
