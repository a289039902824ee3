"""Generation beside lm-evaluation-harness (`generate_until` of its HFLM class), in turn: one table, in Markdown.

Usage: PTQFLOW_DATA=FOLDER PYTHONPATH=workflow:tests/support .venv-harness/bin/python benchmarks/peer_generation.py
[ITEMS [MODEL]] (`make bench`); tasks whose rows are not below PTQFLOW_DATA are left out. The demo model, or a folder, in float32,
greedy, batches of 16, at most 64 tokens, one thread, medians of three rounds of both. Tokens are counted to the end of text,
which is one.
"""

import os
import statistics
import sys
from pathlib import Path
from typing import Any

import real_tasks
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peer_choices import BATCH, MODEL, ROUNDS, timed
from ptqflow.chat import prompt_of
from ptqflow.devices.device import Device
from ptqflow.engines.transformers_engine import load
from ptqflow.evaluation.benchmark import load_items
from ptqflow.evaluation.items import GenerationItem
from ptqflow.evaluation.requests.generation import Protocol, generate

TASKS, TOKENS = ("arithmetic", "gsm8k"), 64
PROTOCOL = Protocol(temperature=0, max_new_tokens=TOKENS)


class Peer(HFLM):
    """lm-evaluation-harness's class, which counts the tokens that its batches are given."""

    tokens = 0

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **arguments: Any) -> torch.Tensor:
        found: torch.Tensor = super()._model_generate(context, max_length, stop, **arguments)
        ends = torch.isin(found[:, context.shape[1] :], torch.tensor(self.model.generation_config.eos_token_id)).int()
        self.tokens += int((ends.cumsum(1) - ends == 0).sum())
        return found


def theirs(peer: Peer, prompts: list[str]) -> tuple[list[str], int]:
    """Texts of the completions and the number of their tokens."""
    peer.tokens, arguments = 0, {"until": [], "max_gen_toks": TOKENS, "do_sample": False}
    texts = peer.generate_until([Instance("generate_until", {}, (text, arguments), 0) for text in prompts], disable_tqdm=True)
    return texts, peer.tokens


def ours(task: str, items: list[GenerationItem], engine: Any) -> tuple[list[str], int]:
    """The same, of our requests: prompts are made and completions read, as in a study."""
    rows = generate(task, items, engine, PROTOCOL, 0, BATCH)
    return [row["text"] for row in rows], sum(row["completion_tokens"] for row in rows)


def main() -> None:
    """Print the table."""
    root, limit = Path(os.environ.get("PTQFLOW_DATA", ".")), int(sys.argv[1]) if len(sys.argv) > 1 else 200
    model = Path(sys.argv[2]) if len(sys.argv) > 2 else MODEL
    torch.set_num_threads(1)
    engine = load(model, Device("cpu", torch.device("cpu"), torch.float32))
    peer = Peer(str(model), device="cpu", dtype="float32", batch_size=BATCH, add_bos_token=False)
    print(
        "| task | items | texts that differ | tokens | items/s (CPU), ours | lm-eval | tokens/s (CPU), ours | lm-eval | ratio |",
        end="",
    )
    print(" ratio of wall times |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for task in TASKS:
        if not (place := real_tasks.rows(task, root)):
            continue
        items = load_items(task, *place, limit)
        questions = [[{"role": "user", "content": item.asked(PROTOCOL.protocol, 0).prompt}] for item in items]
        prompts = [prompt_of(engine.tokenizer, PROTOCOL.conversation(asked), task, {}) for asked in questions]

        def own(task: str = task, items: list = items) -> tuple[list[str], int]:
            return ours(task, items, engine)

        def others(prompts: list[str] = prompts) -> tuple[list[str], int]:
            return theirs(peer, prompts)

        rounds = [(timed(own), timed(others)) for _ in range(ROUNDS)]
        found = [both[0] for both in rounds[0]]
        differ = sum(one.strip() != two.strip() for one, two in zip(found[0][0], found[1][0], strict=True))
        tokens = [told[1] for told in found]
        cpu, wall = ([statistics.median(both[side][part] for both in rounds) for side in (0, 1)] for part in (1, 2))
        # by token: near ties that another order of sums decides make completions end elsewhere
        rate, wall_rate = ([count / seconds for count, seconds in zip(tokens, spent, strict=True)] for spent in (cpu, wall))
        cells = [
            task,
            str(len(items)),
            str(differ),
            f"{tokens[0]}, {tokens[1]}",
            *(f"{len(items) / seconds:.1f}" for seconds in cpu),
        ]
        cells += [*(f"{value:.0f}" for value in rate), f"{rate[0] / rate[1]:.2f}", f"{wall_rate[0] / wall_rate[1]:.2f}"]
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
