"""What others say of the same questions: lm-evaluation-harness, a plain loop of transformers, and math-verify.

Runs in `.venv-harness` and imports nothing of ptqflow: `python theirs.py FOLDER` reads FOLDER/asked.json (`questions.py`) and
writes FOLDER/theirs.json. Tasks are lm-evaluation-harness's own definitions; only where their rows lie is overridden.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pyarrow.parquet as pq
import torch
from lm_eval import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from math_verify import parse, verify
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 16


def definition(name: str, task: Mapping[str, Any], folder: Path) -> str:
    """A file that includes the harness's definition of a task and reads its rows from a local folder."""
    shipped = next(Path(lm_eval.tasks.__file__).parent.rglob(task["definition"]))
    splits = {split: task["split"] if task["split"] == split else None for split in ("train", "validation", "test")}
    lines = [f"include: {shipped}", f"dataset_path: {task['path']}", f"dataset_name: {json.dumps(task['subset'])}"]
    lines += [f"{'training' if split == 'train' else split}_split: {json.dumps(there)}" for split, there in splits.items()]
    file = folder / f"{name}.yaml"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def choices(model: Mapping[str, Any], tasks: Mapping[str, Any], items: int, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Of each task's first items: contexts and continuations, log-likelihoods, and whether the harness counts them right."""
    peer = HFLM(model["folder"], device="cpu", dtype="float32", batch_size=BATCH, add_bos_token=model["bos"])
    files = [definition(name, task, folder) for name, task in tasks.items()]
    told = evaluate(peer, TaskManager(include_defaults=False).load(files), limit=items, bootstrap_iters=0, verbosity="ERROR")
    return {
        name: [
            {
                "alternatives": sample["arguments"],
                "logprobs": [answer[0][0] for answer in sample["resps"]],
                "correct": bool(sample[tasks[name]["metric"]]),
            }
            for sample in sorted(samples, key=lambda sample: sample["doc_id"])
        ]
        for name, samples in told["samples"].items()
    }


@torch.inference_mode()
def losses(model: Mapping[str, Any], text: Mapping[str, Any]) -> list[float]:
    """-log p of each window's tokens but the first, in nats: one window at a time, log-softmax in float64."""
    tokenizer = AutoTokenizer.from_pretrained(model["folder"])
    network = AutoModelForCausalLM.from_pretrained(model["folder"], dtype=torch.float32).eval()
    stream = tokenizer("\n\n".join(rows(Path(text["file"])))).input_ids
    window, found = text["window"], []
    for start in range(0, min(len(stream) - window + 1, window * text["windows"]), window):
        tokens = torch.tensor(stream[start : start + window])
        likelihood = network(tokens[None]).logits[0, :-1].double().log_softmax(-1)
        found.append(-likelihood[torch.arange(window - 1), tokens[1:]].sum().item())
    return found


def rows(file: Path) -> Sequence[str]:
    """The column `text` of a file of rows."""
    if file.suffix == ".parquet":
        return pq.read_table(file)["text"].to_pylist()
    return [json.loads(line)["text"] for line in file.read_text().splitlines()]


def right(pair: Mapping[str, Any]) -> bool:
    """math-verify's verdict, gold and completion parsed as its README does."""
    return bool(verify(parse(f"${pair['gold']}$"), parse(pair["completion"])))


def main() -> None:
    """Answer the questions."""
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "asked.json").read_text())
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    models, texts = asked["models"], asked["texts"]
    told = {
        "choices": {name: choices(model, asked["tasks"], asked["items"], folder) for name, model in models.items()},
        "losses": {
            name: {text: losses(models[name], entry) for text, entry in texts.items()}
            for name in models
            if not models[name]["tokenizer_alone"]
        },
        "pairs": [right(pair) for pair in asked["pairs"]],
    }
    (folder / "theirs.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
