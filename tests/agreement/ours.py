"""What ptqflow says of the same questions, in one engine: `python ours.py ENGINE FOLDER`, in the engine's environment.

Reads FOLDER/asked.json (`questions.py`), writes FOLDER/ENGINE.json.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ptqflow.devices.device import Device
from ptqflow.engines.protocol import Engine, load
from ptqflow.evaluation import benchmark
from ptqflow.evaluation.items import ChoiceItem
from ptqflow.evaluation.requests import choices, perplexity
from ptqflow.evaluation.scoring.choices import Metric
from ptqflow.sources import Source

BATCH = 16


def answers(engine: Engine, name: str, task: Mapping[str, Any], items: int, bos: bool) -> list[dict[str, Any]]:
    """Of a task's first items: contexts and continuations, their log-likelihoods, and our verdicts."""
    module = benchmark.load(task["benchmark"])
    metric = Metric.model_validate(module.BENCHMARK.defaults)
    source = Source(path=task["path"], subset=task["subset"], split=task["split"])
    found = [item for item in benchmark.load_items(name, task["benchmark"], source, items) if isinstance(item, ChoiceItem)]
    rows = choices.generate(name, found, engine, choices.Protocol(bos=bos), 0, BATCH)
    return [
        {
            "alternatives": item.alternatives,
            "logprobs": row["choice_logprobs"],
            "correct": module.score(row, metric).correct,
        }
        for item, row in zip(found, rows, strict=True)
    ]


def losses(engine: Engine, name: str, text: Mapping[str, Any]) -> list[float]:
    """-log p of each window, in nats."""
    items = benchmark.load_items(name, text["benchmark"], Source(path=text["file"]))
    protocol = perplexity.Protocol(window=text["window"], limit=text["windows"])
    return [row["nll"] for row in perplexity.generate(name, items, engine, protocol, 0, 4)]  # type: ignore[arg-type]


def main() -> None:
    """Answer the questions."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    asked = json.loads((folder / "asked.json").read_text())
    torch.set_num_threads(1)
    told: dict[str, Any] = {"choices": {}, "losses": {}}
    for name, model in asked["models"].items():
        if model["tokenizer_alone"] and kind != "transformers":
            continue
        engine = load(kind, Path(model["folder"]), Device("cpu", torch.device("cpu"), torch.float32))
        told["choices"][name] = {
            task: answers(engine, task, entry, asked["items"], model["bos"]) for task, entry in asked["tasks"].items()
        }
        if not model["tokenizer_alone"]:
            told["losses"][name] = {text: losses(engine, text, entry) for text, entry in asked["texts"].items()}
    (folder / f"{kind}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
