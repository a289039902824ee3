"""Reasoning: generate completions of chat prompts, extract their final answers, compare them with gold."""

from typing import Any

from ptqflow.engines.protocol import Engine, Sampling
from ptqflow.errors import ConfigError
from ptqflow.evaluation.answers import END_THINK, THINK, extract
from ptqflow.evaluation.equality import equal
from ptqflow.evaluation.hashing import completion_seed, tokens_sha256
from ptqflow.evaluation.items import ReasoningItem
from ptqflow.evaluation.tasks import TaskConfig
from ptqflow.progress import progress


def chat_prompt(tokenizer: Any, content: str) -> tuple[list[int], bool]:
    """Token ids of one user turn with the generation prompt, and whether that opens a thinking section.

    The template writes BOS itself where the model wants one, so its text is tokenized without special tokens: a second BOS
    is a known way to lose accuracy. Raises ConfigError for a tokenizer without a chat template.
    """
    if not tokenizer.chat_template:
        raise ConfigError(
            "the model's tokenizer has no chat template, which reasoning tasks need; use an instruction-tuned model"
        )
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False).input_ids, THINK in text.rpartition(END_THINK)[2]


def hidden_tokens(tokenizer: Any) -> frozenset[int]:
    """Ids of the special tokens that a completion's text leaves out: all but the marks of thinking, where these are special.

    Without them, no completion would ever end its thinking.
    """
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(token for token, entry in added if entry.special and entry.content not in (THINK, END_THINK))


def evaluate(
    name: str, task: TaskConfig, items: list[ReasoningItem], engine: Engine, seed: int, batch_size: int
) -> list[dict[str, Any]]:
    """One row per item and completion. `task` is resolved; a greedy task needs no more than one completion."""
    assert task.max_new_tokens is not None and task.temperature is not None  # noqa: PT018
    assert task.top_p is not None and task.top_k is not None and task.completions is not None  # noqa: PT018
    sampling = Sampling(task.max_new_tokens, task.temperature, task.top_p, task.top_k)
    prompts = [chat_prompt(engine.tokenizer, item.prompt) for item in items]
    requests = [(index, completion) for index in range(len(items)) for completion in range(task.completions)]
    seeds = [completion_seed(seed, name, items[index].id, completion) for index, completion in requests]
    hidden = hidden_tokens(engine.tokenizer)
    rows = []
    with progress(name, len(requests), "completions") as bar:
        for request, completion in engine.generate([prompts[index][0] for index, _ in requests], seeds, sampling, batch_size):
            index, number = requests[request]
            tokens, thinking = prompts[index]
            text = engine.tokenizer.decode([token for token in completion.tokens if token not in hidden])
            truncated = completion.finish_reason == "length"
            extracted = extract(text, thinking=thinking, truncated=truncated, legacy=task.scorer == "legacy")
            rows.append(
                {
                    "task": name,
                    "kind": "reasoning",
                    "item": items[index].id,
                    "seed": seed,
                    "completion": number,
                    "prompt_sha256": tokens_sha256(tokens),
                    "prompt_tokens": len(tokens),
                    "completion_tokens": len(completion.tokens),
                    "finish_reason": completion.finish_reason,
                    "text": text,
                    "extracted": extracted,
                    "gold": items[index].gold,
                    "correct": equal(extracted, items[index].gold),
                }
            )
            bar.update(1)
    return rows
