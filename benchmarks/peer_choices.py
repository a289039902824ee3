"""Log-likelihood tasks beside lm-evaluation-harness (its HFLM class), item by item and in turn: one table, in Markdown.

Usage: PTQFLOW_DATA=FOLDER PYTHONPATH=workflow:tests/support .venv-harness/bin/python benchmarks/peer_choices.py
[ITEMS [VOCABULARY]] (`make bench`); tasks whose rows are not below PTQFLOW_DATA are left out. The demo model, float32, batches of
16 pairs, medians of three rounds of both. VOCABULARY: the demo model's, enlarged; at 4736 its output layer is the share of the
weights that it is of Qwen2.5-0.5B's.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import real_tasks
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from ptqflow.devices.device import Device
from ptqflow.engines.transformers_engine import load
from ptqflow.evaluation.benchmark import load_items
from ptqflow.evaluation.items import ChoiceItem
from ptqflow.evaluation.requests.choices import Protocol, generate
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL = Path(__file__).resolve().parents[1] / "resources/demo-model"
BATCH, ROUNDS = 16, 3
TASKS = ("facts", "hellaswag", "arc-easy", "arc-challenge", "piqa", "winogrande", "lambada")
Answers = TypeVar("Answers")


def theirs(peer: HFLM, items: list[ChoiceItem]) -> list[list[float]]:
    """lm-evaluation-harness's log-likelihoods of each item's alternatives."""
    requests = [Instance("loglikelihood", {}, pair, 0) for item in items for pair in item.alternatives]
    found = iter(peer.loglikelihood(requests, disable_tqdm=True))
    return [[next(found)[0] for _ in item.alternatives] for item in items]


def timed(ask: Callable[[], Answers]) -> tuple[Answers, float, float]:
    """What was told, the process's CPU seconds and the wall's."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = ask()
    return found, time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    """Print the table."""
    root, limit = Path(os.environ.get("PTQFLOW_DATA", ".")), int(sys.argv[1]) if len(sys.argv) > 1 else 60
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        compare(enlarged(Path(folder), int(sys.argv[2])) if len(sys.argv) > 2 else MODEL, root, limit)


def enlarged(folder: Path, vocabulary: int) -> Path:
    """The demo model with more rows of its embedding."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder)
    return folder


def compare(model: Path, root: Path, limit: int) -> None:
    """A row for each task."""
    engine = load(model, Device("cpu", torch.device("cpu"), torch.float32))
    peer = HFLM(str(model), device="cpu", dtype="float32", batch_size=BATCH, add_bos_token=False)
    print("| task | alternatives | nats | picks that differ | CPU s, ours | lm-eval | ratio | ratio of wall times |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for task in TASKS:
        if not (place := real_tasks.rows(task, root)):
            continue
        items = load_items(task, *place)[:limit]

        def own(task: str = task, items: list = items) -> list[list[float]]:
            return [row["choice_logprobs"] for row in generate(task, items, engine, Protocol(), 0, BATCH)]

        def others(items: list = items) -> list[list[float]]:
            return theirs(peer, items)

        rounds = [(timed(own), timed(others)) for _ in range(ROUNDS)]
        (mine, *_), (expected, *_) = rounds[0]
        cpu, wall = ([statistics.median(both[side][part] for both in rounds) for side in (0, 1)] for part in (1, 2))
        pairs = list(zip(mine, expected, strict=True))
        largest = max(abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True))
        differ = sum(one.index(max(one)) != two.index(max(two)) for one, two in pairs)
        cells = [task, str(sum(map(len, mine))), f"{largest:.0e}", f"{differ} of {len(items)}"]
        cells += [f"{cpu[0]:.2f}", f"{cpu[1]:.2f}", f"{cpu[1] / cpu[0]:.2f}", f"{wall[1] / wall[0]:.2f}"]
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
