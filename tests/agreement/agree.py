"""ptqflow's numbers beside those of others, item by item: one table (`make check-evaluation`; docs/testing.md).

Log-likelihoods of six QA tasks against lm-evaluation-harness's own tasks, perplexities against a plain loop, gold and shuffled
answers of every data set, verdicts on answers against math-verify. Rows go to results/agreement.parquet, the table to
results/agreement.md; a row that fails ends it with status 1, one that cannot be run says why.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gold
import planted
import questions
import real_tasks
from ptqflow.artifacts.atomic import write_text
from ptqflow.artifacts.evidence_schemas import AGREEMENT
from ptqflow.artifacts.tables import write_rows
from ptqflow.evaluation.answers import extract
from ptqflow.evaluation.equality import equal
from ptqflow.reporting.render import TextTable, markdown, number
from transformers import AutoTokenizer

HERE, REPOSITORY = Path(__file__).resolve().parent, questions.REPOSITORY
HARNESS, ENVIRONMENTS = ".venv-harness", {"transformers": ".venv", "vllm": ".venv-vllm"}
NATS = 0.002  # of one alternative or window: other orders of float32 sums; the next closest pair of alternatives is far apart
Row = dict[str, Any]


def ask(script: str, environment: str, *arguments: str | Path) -> None:
    """Run a script in an environment, with nothing from the hub and no cache of earlier rows."""
    folder = Path(arguments[-1])
    variables = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    variables |= {"PYTHONPATH": str(REPOSITORY / "workflow"), "TOKENIZERS_PARALLELISM": "false"}
    command = [REPOSITORY / environment / "bin/python", HERE / script, *arguments]
    log = folder / f"{environment.removeprefix('.')}.log"
    with log.open("w") as stream:
        done = subprocess.run(command, env=os.environ | variables, cwd=REPOSITORY, stdout=stream, stderr=stream, check=False)
    if done.returncode:
        raise SystemExit(f"{script} in {environment} ended with status {done.returncode}; {log} ends:\n{log.read_text()[-2000:]}")


def choice_row(mine: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> Row:
    """Items of one task: the same words asked, log-likelihoods within NATS, and the same items right."""
    words = [[list(pair) for pair in item["alternatives"]] for item in mine]
    if words != [[list(pair) for pair in item["alternatives"]] for item in others]:
        pairs = zip(words, (item["alternatives"] for item in others), strict=False)
        first = next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(mine), len(others)))
        return {"items": len(mine), "passed": False, "message": f"item {first} is asked in other words"}
    told = [(a, b) for x, y in zip(mine, others, strict=True) for a, b in zip(x["logprobs"], y["logprobs"], strict=True)]
    apart = max(abs(a - b) for a, b in told)
    close = all(abs(a - b) <= NATS for a, b in told)  # which a NaN is not
    differ = sum(x["correct"] != y["correct"] for x, y in zip(mine, others, strict=True))
    figures = {"items": len(mine), "compared": len(told), "difference": apart, "disagreements": differ}
    return figures | {"passed": close and not differ, "message": ""}


def loss_row(mine: Sequence[float], others: Sequence[float]) -> Row:
    """Windows of one text."""
    apart = max(abs(a - b) for a, b in zip(mine, others, strict=True))
    differ = sum(not abs(a - b) <= NATS for a, b in zip(mine, others, strict=True))
    return {
        "items": len(mine),
        "compared": len(mine),
        "difference": apart,
        "disagreements": differ,
        "passed": not differ,
        "message": "",
    }


def engine_rows(asked: Row, folder: Path, root: Path | None) -> list[Row]:
    """Log-likelihoods and perplexities, a row for each engine, model and task or text."""
    theirs, rows = json.loads((folder / "theirs.json").read_text()), []
    for engine, environment in ENVIRONMENTS.items():
        there = (REPOSITORY / environment / "bin/python").exists()
        if there:
            ask("ours.py", environment, engine, folder)
        mine = json.loads((folder / f"{engine}.json").read_text()) if there else {}
        for model, entry in asked["models"].items():
            if entry["tokenizer_alone"] and engine != "transformers":
                continue
            head = {"model": model, "engine": engine}
            for task in questions.TASKS:
                row = head | {"check": "log-likelihoods", "data": task if root else f"{task} (planted)", "reference": "lm-eval"}
                if task not in asked["tasks"]:
                    row |= {"passed": None, "message": f"not run: no {questions.listed(task)[1]} in PTQFLOW_DATA"}
                elif not there:
                    row |= {"passed": None, "message": f"not run: no {environment}; run make {engine}"}
                else:
                    row |= choice_row(mine["choices"][model][task], theirs["choices"][model][task])
                rows.append(row)
            for text in () if entry["tokenizer_alone"] else asked["texts"]:
                row = head | {"check": "perplexity", "data": text, "reference": "plain loop"}
                if there:
                    row |= loss_row(mine["losses"][model][text], theirs["losses"][model][text])
                else:
                    row |= {"passed": None, "message": f"not run: no {environment}; run make {engine}"}
                rows.append(row)
    return rows


def key_of(pair: Mapping[str, Any]) -> str:
    """What identifies a pair of gold answer and completion; all that is kept of those that are not the repository's."""
    return hashlib.sha256(json.dumps([pair["gold"], pair["completion"]]).encode()).hexdigest()


def answer_rows(pairs: Sequence[Mapping[str, Any]], theirs: Sequence[bool]) -> list[Row]:
    """Verdicts on answers; each disagreement must be decided in decisions.jsonl, as it is."""
    lines = map(json.loads, (HERE / "decisions.jsonl").read_text().splitlines())
    decided = {line.get("sha256") or key_of(line): line for line in lines}
    differ, open_ones, for_others = 0, [], 0
    for pair, other in zip(pairs, theirs, strict=True):
        mine = equal(extract(pair["completion"], thinking=pair["thinking"], truncated=pair["truncated"]), pair["gold"])
        if mine == other:
            continue
        differ += 1
        decision = decided.get(key_of(pair))
        if decision is None or decision["ours"] != mine:
            open_ones.append(f"{pair['gold']!r} and {pair['completion']!r}: ours {mine}")
        else:
            for_others += decision["right"] == "math-verify"
    message = (
        f"{differ - for_others - len(open_ones)} decided for ours, {for_others} for math-verify (tests/agreement/decisions.jsonl)"
    )
    if open_ones:
        message = f"{len(open_ones)} undecided, the first {open_ones[0]}; {message}"
    row = {"check": "verdicts on answers", "data": "hard pairs", "model": "–", "engine": "–", "reference": "math-verify"}
    figures = {"items": len(pairs), "compared": len(pairs), "disagreements": differ}
    return [row | figures | {"passed": not open_ones, "message": message}]


def table(rows: Sequence[Row], items: int) -> TextTable:
    """What is printed."""

    def cells(row: Row) -> list[str]:
        counts = [f"{row[key]:,}" if row.get(key) is not None else "–" for key in ("items", "compared")]
        apart = f"{row['difference']:.0e}" if row.get("difference") is not None else "–"
        verdict = {True: "agrees", False: "FAILED", None: ""}[row["passed"]]
        said = " ".join(part for part in (verdict, row.get("message", "")) if part)
        differ = number(row.get("disagreements"), 0)
        return [row["check"], row["data"], row["model"], row["engine"], row["reference"], *counts, apart, differ, said]

    header = ["check", "data", "model", "engine", "against", "items", "compared", "nats", "disagree", ""]
    notes = [
        f"nats: the largest difference of one alternative or window; at most {NATS} passes. disagree: items that one side alone "
        "counts right, windows beyond that, or verdicts.",
        f"log-likelihoods: the first {items} items of each task at most, in float32, words and verdicts (acc_norm; acc of "
        "winogrande and lambada_openai) by lm-eval's own definition of the task.",
        "gold and shuffled: every item, asked and scored as in a study, answered by an oracle; chance: where both answers are "
        "the same.",
    ]
    return TextTable("Agreement with others", header, [cells(row) for row in rows], names=5, notes=notes)


def main() -> int:
    """Ask, compare, print; 0 when no row failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="data sets in the hub's layout; without it, planted rows in their schemas")
    parser.add_argument("--items", type=int, default=100, help="of each task, the first so many")
    parser.add_argument("--engines", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    parser.add_argument("--document", type=Path, help="write the table there, too")
    args = parser.parse_args()
    for left_out in set(ENVIRONMENTS) - set(args.engines):
        del ENVIRONMENTS[left_out]
    folder = REPOSITORY / "build/agreement"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    root = args.data or planted.plant(folder / "planted")
    asked = questions.write(folder, root.resolve(), args.items)
    ask("theirs.py", HARNESS, folder)
    rows = engine_rows(asked, folder, args.data)
    tokenizer = AutoTokenizer.from_pretrained(questions.DEMO)
    rows += [gold.row(name, args.data, tokenizer) for name in real_tasks.TASKS]
    rows += answer_rows(asked["pairs"], json.loads((folder / "theirs.json").read_text())["pairs"])
    write_rows(REPOSITORY / "results/agreement.parquet", AGREEMENT, rows, {"items": args.items, "data": str(args.data)})
    text = markdown([table(rows, args.items)])
    write_text(REPOSITORY / "results/agreement.md", text)
    if args.document:
        write_text(args.document, text.removeprefix("#"))  # a page's title
    print(text)
    return 1 if any(row["passed"] is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
