"""Completions of chat prompts, as the engine gave them: nothing is extracted and nothing is judged here."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ptqflow.artifacts.journal import Journal
from ptqflow.chat import END_THINK, THINK, ChatSettings, prompt_of
from ptqflow.evaluation.hashing import completion_seed, requests_sha256, tokens_sha256
from ptqflow.evaluation.items import GenerationItem
from ptqflow.evaluation.requests.known import refuse_unknown
from ptqflow.evaluation.requests.limited import Limited
from ptqflow.progress import progress
from ptqflow.tokenizing import tokenizing

if TYPE_CHECKING:
    from ptqflow.engines.protocol import Engine


class Protocol(Limited, ChatSettings):
    """How problems are asked and completions are drawn; the defaults are the source paper's.

    `protocol`: in whose words; `temperature` 0 is greedy; `top_p` 1 and `top_k` 0 are off; `max_new_tokens` per
    completion; `completions` per item and seed.
    """

    protocol: Literal["paper", "aisbench"] = "paper"
    max_new_tokens: Annotated[int, Field(ge=1)] = 32768
    temperature: Annotated[float, Field(ge=0)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Field(ge=0)] = 0
    completions: Annotated[int, Field(ge=1)] = 1


def chat_prompt(
    tokenizer: Any, content: str, where: str = "generation", chat: ChatSettings | None = None
) -> tuple[list[int], bool]:
    """Token ids of one user turn with the generation prompt, and whether that opens a thinking section.

    The template writes BOS itself where the model wants one, so its text is tokenized without special tokens: a second BOS
    is a known way to lose accuracy. Raises ConfigError for a tokenizer without a chat template, or with one that fails.
    """
    chat = chat or ChatSettings()
    messages = chat.conversation([{"role": "user", "content": content}])
    text = prompt_of(tokenizer, messages, where, chat.chat_template_kwargs)
    with tokenizing(where):
        tokens = tokenizer(text, add_special_tokens=False).input_ids
    turn = content.strip()
    opening = text.rpartition(turn)[2] if turn else text  # behind the turn: marks that are quoted open nothing
    return tokens, THINK in opening.rpartition(END_THINK)[2]


def hidden_tokens(tokenizer: Any) -> frozenset[int]:
    """Ids of the special tokens that a completion's text leaves out: all but the marks of thinking, where these are special.

    Without them, no completion would ever end its thinking.
    """
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(token for token, entry in added if entry.special and entry.content not in (THINK, END_THINK))


def generate(
    task: str,
    items: Sequence[GenerationItem],
    engine: "Engine",
    protocol: Protocol,
    seed: int,
    batch_size: int | None,
    journal: Journal | None = None,
) -> list[dict[str, Any]]:
    """One row of schema GENERATIONS per item and completion; a greedy task needs no more than one completion.

    What the journal keeps is not generated again.
    """
    from ptqflow.engines.protocol import Sampling

    journal = journal or Journal()

    sampling = Sampling(protocol.max_new_tokens, protocol.temperature, protocol.top_p, protocol.top_k)
    prompts = []
    questions = [item.asked(protocol.protocol, seed) for item in items]
    for item, question in zip(items, questions, strict=True):
        prompts.append(chat_prompt(engine.tokenizer, question.prompt, f"task {task}, item {item.id}", protocol))
    refuse_unknown(task, (token for tokens, _ in prompts for token in tokens), engine)
    requests = [(index, completion) for index in range(len(items)) for completion in range(protocol.completions)]
    seeds = [completion_seed(seed, task, items[index].id, completion) for index, completion in requests]
    asked = [prompts[index][0] for index, _ in requests]
    with progress(task, len(requests), "completions") as bar:
        bar.update(journal.open(requests_sha256([asked, seeds])))
        for request, completion in engine.generate(asked, seeds, sampling, batch_size, frozenset(journal.results)):
            journal.add({request: dict(vars(completion))})  # asdict would copy token by token
            bar.update(1)
    hidden = hidden_tokens(engine.tokenizer)
    rows = []
    for request, (index, number) in enumerate(requests):
        tokens, thinking = prompts[index]
        said = journal.results[request]
        row = {
            "item": items[index].id,
            "completion": number,
            "gold": questions[index].gold,
            "options": questions[index].options,
            "prompt_sha256": tokens_sha256(tokens),
            "prompt_tokens": len(tokens),
            "completion_tokens": len(said["tokens"]),
            "thinking": thinking,
            "text": engine.tokenizer.decode([token for token in said["tokens"] if token not in hidden]),
        }
        rows.append(row | said)
    return rows
