"""Make the demo model: data, tokenizer, training, planted outliers, task and calibration files. One command:

python resources/recipe/train.py --out DIR [--device cpu|cuda] [--seed 0] [--resources DIR]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import world
from plant import plant
from tokenizer import train_tokenizer
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 1152
CONTEXT = 2048
ROW = 320  # tokens per packed training row
ROWS_PER_STEP = 20
STEPS = 1800
WARMUP_STEPS = 50
MUON_RATE, ADAM_RATE = 2e-2, 3e-3
IGNORED = -100  # label of tokens that are read, not learned


def progress(started: float, text: str) -> None:
    """Print `text` after the seconds since `started`."""
    print(f"[{time.monotonic() - started:6.0f} s] {text}", flush=True)


# ---------------------------------------------------------------------------------------------- data


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Learn the tokens from a sample of the training documents."""
    documents = itertools.islice(world.training_documents(seed), 20_000)
    return train_tokenizer((d.prompt + d.completion for d in documents), VOCABULARY, CONTEXT)


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless tokens and labels, both [ROWS_PER_STEP, ROW] int64. Every row begins with a document; its last one is cut."""
    documents = world.training_documents(seed)
    coin = random.Random(seed)
    waiting: list[tuple[list[int], list[int]]] = []
    while True:
        rows = []
        for _ in range(ROWS_PER_STEP):
            ids: list[int] = []
            labels: list[int] = []
            while len(ids) < ROW:
                if not waiting:
                    waiting = encode(tokenizer, list(itertools.islice(documents, 4096)), coin)
                document_ids, document_labels = waiting.pop()
                ids += document_ids
                labels += document_labels
            rows.append([ids[:ROW], labels[:ROW]])
        tokens, targets = torch.tensor(rows).unbind(1)
        yield tokens, targets


def encode(
    tokenizer: PreTrainedTokenizerFast, documents: list[world.Document], coin: random.Random
) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels per document. Word problems are only read; all else is learned."""
    prompts = [
        f"{tokenizer.bos_token}<|User|>{d.prompt}<|Assistant|>"
        if d.is_chat
        else coin.choice((tokenizer.bos_token, "")) + d.prompt  # plain text is met with and without BOS
        for d in documents
    ]
    prompt_ids = tokenizer(prompts)["input_ids"]
    completion_ids = tokenizer([d.completion + tokenizer.eos_token for d in documents])["input_ids"]
    return [
        (p + c, ([IGNORED] * len(p) if d.is_chat else p) + c)
        for d, p, c in zip(documents, prompt_ids, completion_ids, strict=True)
    ]


# ---------------------------------------------------------------------------------------------- training


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 whose every linear layer has sizes divisible by 128."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def optimizers(model: Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices (it needs about half of AdamW's steps), AdamW for all else."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to one hundredth."""
    done = max(0, step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return min(1.0, (step + 1) / WARMUP_STEPS) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def train(
    model: Qwen2ForCausalLM, data: Iterator[tuple[torch.Tensor, torch.Tensor]], steps: int, device: torch.device, started: float
) -> None:
    """Take `steps` steps, each on new data."""
    model.to(device).train()
    chosen = optimizers(model)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in chosen]
    last_report = -math.inf
    for step, (tokens, labels) in enumerate(itertools.islice(data, steps)):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = model(input_ids=tokens.to(device), use_cache=False).logits
        predicted, wanted = logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten().to(device)
        loss = cross_entropy(predicted, wanted, ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in zip(chosen, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * rate_factor(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        if time.monotonic() - last_report > 5 or step == steps - 1:
            last_report = time.monotonic()
            progress(started, f"step {step + 1}/{steps}  loss {loss.item():.4f}")
    model.eval()


# ---------------------------------------------------------------------------------------------- output


@torch.inference_mode()
def answer(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: list[str], batch: int = 100) -> list[str]:
    """Greedy completions, without the `<think>` that the prompt ends in and without the end-of-sentence token."""
    completions: list[str] = []
    for first in range(0, len(questions), batch):
        chats = [[{"role": "user", "content": world.user_message(q)}] for q in questions[first : first + batch]]
        prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(model.device)
        inputs.pop("token_type_ids", None)
        outputs = model.generate(**inputs, max_new_tokens=256, do_sample=False)
        completions += tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return completions


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """Write JSON lines, the same bytes on every platform."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def write_tasks(resources: Path) -> None:
    """Write what needs no model: all tasks and the calibration text."""
    for task, rows in world.task_rows().items():
        write_rows(resources / "tasks" / task / "test.jsonl", rows)
    passages = [{"id": f"text-{i:03}", "text": text} for i, text in enumerate(world.calibration_passages())]
    write_rows(resources / "calibration" / "text.jsonl", passages)


def write_traces(resources: Path, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Calibration prompts (the whole user turn) with what the model itself answers to them."""
    asked = [problem.question for problem in world.calibration_problems()]
    completions = [f"{world.THINK}\n{completion}" for completion in answer(model, tokenizer, asked)]
    traces = [
        {"id": f"trace-{i:03}", "prompt": world.user_message(question), "completion": completion}
        for i, (question, completion) in enumerate(zip(asked, completions, strict=True))
    ]
    write_rows(resources / "calibration" / "traces.jsonl", traces)


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a folder that transformers loads; decoding is greedy unless asked otherwise."""
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # The class that transformers 5 uses for Qwen2 anyway; the one it writes here is unknown to version 4.
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "Qwen2Tokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--resources", type=Path, help="folder of tasks/ and calibration/ (default: beside --out)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the training data")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps; fewer for a try-out")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    chosen = parser.parse_args()
    resources = chosen.resources or chosen.out.parent

    started = time.monotonic()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    write_tasks(resources)
    tokenizer = make_tokenizer(chosen.seed)
    progress(started, f"tasks and a tokenizer of {len(tokenizer)} tokens")
    model = make_model(tokenizer)
    tokens = chosen.steps * ROWS_PER_STEP * ROW
    progress(started, f"{model.num_parameters() / 1e6:.2f} million parameters, {tokens / 1e6:.1f} million training tokens")
    train(model, batches(tokenizer, chosen.seed), chosen.steps, torch.device(chosen.device), started)

    # Round to bfloat16 first: planting multiplies by powers of two, and so changes no rounding.
    model.to("cpu", torch.bfloat16)
    planted = plant(model, chosen.seed)
    save(model, tokenizer, chosen.out)
    rows = ",\n".join(json.dumps(row) for row in planted)
    (chosen.out / "planted.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    progress(started, f"outliers planted and model written to {chosen.out}")
    model.to(chosen.device)
    write_traces(resources, model, tokenizer)
    tested = world.problems("test", "typical", 100, world.TEST_SEED)
    completions = answer(model, tokenizer, [p.question for p in tested])
    right = sum(f"\\boxed{{{p.answer}}}" in c for p, c in zip(tested, completions, strict=True))
    progress(started, f"calibration traces written; {right} % of 100 test problems are right")


if __name__ == "__main__":
    main()
