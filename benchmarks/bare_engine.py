"""What ptqflow adds to a bare engine: completions through its requests beside `generate` of the engine itself, in turn.

Usage: python benchmarks/bare_engine.py ENGINE [ITEMS [MODEL]], in the engine's environment; GSM8K is asked where PTQFLOW_DATA is
set. The demo model, or a folder, in float32, greedy, batches of 16 (vLLM forms its own); medians of three rounds of both. CPU
seconds are the process's.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ptqflow.devices.device import Device
from ptqflow.engines.protocol import load
from ptqflow.evaluation.benchmark import load_items
from ptqflow.evaluation.requests.generation import Protocol, chat_prompt, generate
from ptqflow.sources import Source

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "resources/demo-model"
BATCH, ROUNDS, TOKENS = 16, 3, 64
PROTOCOL = Protocol(temperature=0, max_new_tokens=TOKENS)


def sources() -> dict[str, tuple[str, Source]]:
    """Benchmark and rows of each task: the demo's, and GSM8K where it is at hand."""
    found = {"arithmetic": ("problems", Source(path=str(ROOT / "resources/tasks/arithmetic")))}
    if data := os.environ.get("PTQFLOW_DATA"):
        found["gsm8k"] = ("gsm8k", Source(path=f"{data}/gsm8k", subset="main", split="test"))
    return found


def timed(ask: Callable[[], int]) -> tuple[int, float, float]:
    """Tokens generated, the process's CPU seconds and the wall's."""
    cpu, wall = time.process_time(), time.perf_counter()
    tokens = ask()
    return tokens, time.process_time() - cpu, time.perf_counter() - wall


@torch.inference_mode()
def bare_transformers(engine: Any, prompts: Sequence[list[int]]) -> int:
    """`model.generate` of batches, longest prompts first, padded on the left."""
    order, tokens = sorted(prompts, key=len, reverse=True), 0
    end = sorted(engine.stop_tokens)
    for batch in (order[first : first + BATCH] for first in range(0, len(order), BATCH)):
        width = len(batch[0])
        inputs = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        arguments = {"attention_mask": mask, "max_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0}
        new = engine.model.generate(inputs, **arguments, eos_token_id=end)[:, width:]
        ends = torch.isin(new, torch.tensor(end)).int()
        tokens += int((ends.cumsum(1) - ends == 0).sum())
    return tokens


def bare_vllm(engine: Any, prompts: Sequence[list[int]]) -> int:
    """`LLM.generate` of all prompts at once."""
    from vllm import SamplingParams

    parameters = SamplingParams(temperature=0, max_tokens=TOKENS, stop_token_ids=engine.stop_tokens, detokenize=False)
    told = engine.llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], parameters, use_tqdm=False)
    return sum(len(answer.outputs[0].token_ids) for answer in told)


def main() -> None:
    """Print the table."""
    kind, limit = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200
    model = Path(sys.argv[3]) if len(sys.argv) > 3 else MODEL
    torch.set_num_threads(1)
    engine = load(kind, model, Device("cpu", torch.device("cpu"), torch.float32))
    bare = {"transformers": bare_transformers, "vllm": bare_vllm}[kind]
    print("| engine | task | items | tokens | tokens/s (CPU), ours | bare | CPU s, ours | bare | overhead |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for task, (benchmark, source) in sources().items():
        items = load_items(task, benchmark, source, limit)

        def own(task: str = task, items: list = items) -> int:
            return sum(row["completion_tokens"] for row in generate(task, items, engine, PROTOCOL, 0, BATCH))

        prompts = [chat_prompt(engine.tokenizer, item.asked("paper", 0).prompt, task)[0] for item in items]
        rounds = [(timed(own), timed(lambda prompts=prompts: bare(engine, prompts))) for _ in range(ROUNDS)]
        (mine, theirs), cpu = (
            (rounds[0][0][0], rounds[0][1][0]),
            [statistics.median(both[side][1] for both in rounds) for side in (0, 1)],
        )
        rates = [f"{mine / cpu[0]:.0f}", f"{theirs / cpu[1]:.0f}"]
        # by token: near ties that another order of sums decides make completions end elsewhere
        overhead = (cpu[0] / mine) / (cpu[1] / theirs) - 1
        cells = [kind, task, str(len(items)), f"{mine}, {theirs}", *rates, f"{cpu[0]:.2f}", f"{cpu[1]:.2f}", f"{overhead:+.1%}"]
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
