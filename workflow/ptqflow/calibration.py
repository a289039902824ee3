"""Calibration sets: rows of text or of a model's own traces, as one token stream, from which seeded windows are drawn.

Rows are tokenized once, in a seeded order, and joined, until they hold several times the tokens that are asked for (the order is
random, so what follows would be more of the same). Windows are disjoint (aligned at multiples of their length, drawn
without replacement) when the stream holds enough of them; otherwise their starts are uniform over the stream, with
replacement, as in the reference implementations. Randomness comes from generators of our own: no global state is read or changed.
"""

import random
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from ptqflow.chat import THINK, ChatSettings, prompt_of, with_thinking
from ptqflow.conversations import has_turns, tools_of, turns_of
from ptqflow.datamodel import Model, Seed
from ptqflow.errors import ConfigError
from ptqflow.sources import CalibrationSource
from ptqflow.tokenizing import tokenizing

_BATCH = 256  # rows tokenized at once
_ENOUGH = 8  # times the tokens of all windows


class Fields(Model):
    """Names of the columns to read. `id` may be absent or null (then the row's number in its source counts)."""

    id: str = "id"
    text: str = "text"
    prompt: str = "prompt"
    completion: str = "completion"
    messages: str = "messages"
    finish_reason: str = "finish_reason"


class CalibrationSettings(ChatSettings):
    """Which rows, in which form, and how many windows of how many tokens.

    `format: plain`: rows with text, or prompt and completion, verbatim. `format: chat`: the prompt goes through the model's chat
    template, the completion follows as the model would generate it. `trace: prompt_only` leaves completions out (an ablation).
    """

    source: CalibrationSource
    format: Literal["chat", "plain"] = "plain"
    trace: Literal["full", "prompt_only"] = "full"
    samples: int = Field(default=128, ge=1, le=1_000_000)
    sequence_length: int = Field(default=2048, ge=2, le=10_000_000)
    seed: Seed = 0
    fields: Fields = Fields()

    @model_validator(mode="after")
    def _chat_alone(self) -> "CalibrationSettings":
        set_ = [name for name in ChatSettings.model_fields if getattr(self, name) is not None]
        if self.format == "plain" and set_:
            raise ValueError(f"{', '.join(set_)} means nothing to format plain; use format: chat, or remove it")
        return self


@dataclass(frozen=True)
class Document:
    """One row as it is tokenized: `prompt` (with the chat template applied), `completion` (either may be empty), `end`."""

    id: str
    prompt: str
    completion: str
    end: str


@dataclass(frozen=True)
class Stream:
    """Tokens, the position at which each row starts, the rows' ids, and the mean number of tokens of a completion."""

    tokens: "array[int]"
    starts: list[int]
    ids: list[str]
    mean_completion_tokens: float


def documents(rows: Sequence[Mapping[str, Any]], settings: CalibrationSettings, tokenizer: Any) -> list[Document]:
    """The rows as prompts and completions, in the order of the source; rows of white space are left out.

    Raises ConfigError for columns that are missing or do not hold what they should, and for a tokenizer without chat template.
    """
    if settings.format == "chat" and not tokenizer.chat_template:
        raise ConfigError("format: chat, but the model's tokenizer has no chat template; use format: plain")
    read = _chat if settings.format == "chat" else _plain
    found = [read(id_of(row, number, settings.fields), row, settings, tokenizer) for number, row in enumerate(rows)]
    for document in found:
        try:
            (document.prompt + document.completion).encode()
        except UnicodeEncodeError:
            raise ConfigError(
                f"{_where(document.id, settings)} holds half of a surrogate pair, which is no text; remove it"
            ) from None
    return [document for document in found if (document.prompt + document.completion).strip()]  # an empty row is no text


def id_of(row: Mapping[str, Any], number: int, fields: Fields) -> str:
    """What a row is called: its `id`, or its number in the source where it has none."""
    named = row.get(fields.id)
    return str(number if named is None else named)


def _plain(name: str, row: Mapping[str, Any], settings: CalibrationSettings, tokenizer: Any) -> Document:
    fields = settings.fields
    if fields.text in row:
        return Document(name, _text(name, row, fields.text, settings).strip(), "", "\n\n")
    turns = _instruction(name, row, settings) if fields.prompt not in row else None
    prompt, completion = turns or (_text(name, row, field, settings) for field in (fields.prompt, fields.completion))
    return Document(name, prompt, completion if settings.trace == "full" else "", "\n\n")


def _instruction(name: str, row: Mapping[str, Any], settings: CalibrationSettings) -> tuple[str, str] | None:
    """Instruction with input, and output, of a row that has these columns and no history."""
    turns = turns_of(row, settings.fields.messages, _where(name, settings)) if "instruction" in row else None
    return (turns[0]["content"] + "\n\n", turns[1]["content"]) if turns and len(turns) == 2 else None


def _chat(name: str, row: Mapping[str, Any], settings: CalibrationSettings, tokenizer: Any) -> Document:
    fields, where = settings.fields, _where(name, settings)
    arguments = dict(settings.chat_template_kwargs or {})
    turn: Mapping[str, Any] = {}
    if (turns := turns_of(row, fields.messages, where)) is not None:
        if turns[-1]["role"] != "assistant":
            raise ConfigError(f"{where}: its turns do not end with the assistant's, the completion")
        context, turn = turns[:-1], turns[-1]
        completion = with_thinking(tokenizer, turn, turn["content"], where)
        if tools := tools_of(row, where):
            arguments["tools"] = tools
    else:
        completion = _text(name, row, fields.completion, settings)
        context = [{"role": "user", "content": _text(name, row, fields.prompt, settings)}]
    # Templates drop the thinking from the assistant's past turns: the completion must never pass through them.
    messages = settings.conversation(context)
    prompt = prompt_of(tokenizer, messages, where, arguments)
    if turn.get("tool_calls"):
        completion = _calling(tokenizer, messages, turn, prompt, where, arguments)
    if settings.trace == "prompt_only":
        return Document(name, prompt, "", "")
    if prompt.rstrip().endswith(THINK) and completion.lstrip().startswith(THINK):
        completion = completion.lstrip().removeprefix(THINK).lstrip("\n")  # the template has opened the thinking already
    cut = row.get(fields.finish_reason) == "length"
    return Document(name, prompt, completion, "" if cut else tokenizer.eos_token or "")


def _calling(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], turn: Mapping[str, Any], prompt: str, where: str, arguments: Any
) -> str:
    """An assistant's turn that calls tools, in the marks that only the template knows: what it adds to the prompt."""
    whole = prompt_of(tokenizer, [*messages, turn], where, arguments, answer_follows=False)
    said = whole.removeprefix(prompt)
    if len(said) == len(whole) or not said.strip():
        raise ConfigError(
            f"{where}: the model's chat template does not write the calls of the last turn behind its prompt; leave the row out"
        )
    return said.rstrip().removesuffix(tokenizer.eos_token or "")


def check_columns(name: str, row: Mapping[str, Any], settings: CalibrationSettings) -> None:
    """Raise ConfigError for a row without the columns that its format reads."""
    whole = settings.fields.text if settings.format == "plain" else settings.fields.messages
    if whole in row or has_turns(row):
        return
    for field in (settings.fields.prompt, settings.fields.completion):
        _check_column(name, row, field, settings)


def _check_column(name: str, row: Mapping[str, Any], field: str, settings: CalibrationSettings) -> None:
    if field not in row:
        raise ConfigError(
            f"{_where(name, settings)} has no column {field!r} but {', '.join(map(repr, row)) or 'none'}; "
            f"name the columns under `fields`, or use another format than {settings.format}"
        )


def _text(name: str, row: Mapping[str, Any], field: str, settings: CalibrationSettings) -> str:
    _check_column(name, row, field, settings)
    if not isinstance(row[field], str):
        raise ConfigError(
            f"{_where(name, settings)}: {field} is a {type(row[field]).__name__}, not text; give one string per row"
        )
    return str(row[field])


def _where(name: str, settings: CalibrationSettings) -> str:
    return f"calibration source {settings.source.label}, row {name}"


def token_stream(
    items: Sequence[Document], settings: CalibrationSettings, tokenizer: Any, report: Callable[[int], object] = lambda rows: None
) -> Stream:
    """Tokenize `items` in the order that the seed gives, until there are enough, and join them. `report`: numbers of rows done.

    A beginning-of-sequence token comes once, at the start of a plain stream; chat templates write their own. Raises ConfigError
    when completions are one token long on average: then a column holds first characters instead of texts.
    """
    order = list(items)
    random.Random(f"order {settings.seed}").shuffle(order)
    with tokenizing(f"calibration source {settings.source.label}"):
        tokens = array("i", _beginning(tokenizer) if settings.format == "plain" else [])
    starts: list[int] = []
    completion_lengths: list[int] = []
    for first in range(0, len(order), _BATCH):
        batch = order[first : first + _BATCH]
        with tokenizing(f"calibration source {settings.source.label}"):
            # Prompt and completion are tokenized as one text: the model sees no boundary between them.
            for ids in _encode(tokenizer, [d.prompt + d.completion + d.end for d in batch]):
                starts.append(len(tokens))
                tokens.extend(ids)
            if completions := [d.completion for d in batch if d.completion]:
                completion_lengths += map(len, _encode(tokenizer, completions))
        report(len(batch))
        if len(tokens) >= _ENOUGH * settings.samples * settings.sequence_length:
            break
    mean = sum(completion_lengths) / max(len(completion_lengths), 1)
    if completion_lengths and mean <= 1:
        raise ConfigError(
            f"calibration source {settings.source.label}: completions are {mean:.2f} tokens long on average, which is no trace "
            "(first characters instead of texts?); give the whole generated texts, or use trace: prompt_only"
        )
    return Stream(tokens, starts, [document.id for document in order[: len(starts)]], mean)


def _beginning(tokenizer: Any) -> list[int]:
    ids = list(tokenizer("")["input_ids"])
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


def _encode(tokenizer: Any, texts: list[str]) -> Iterable[list[int]]:
    encoded: Iterable[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return encoded


def windows(total: int, samples: int, length: int, seed: int) -> tuple[list[int], bool]:
    """Starts of `samples` windows of `length` tokens in a stream of `total` tokens, and whether they are disjoint.

    Raises ConfigError when the stream is shorter than one window.
    """
    if total < length:
        raise ConfigError(f"the calibration source holds {total} tokens, less than one window of {length}; lower sequence_length")
    generator = random.Random(f"windows {seed}")
    if total // length >= samples:
        return [length * slot for slot in generator.sample(range(total // length), samples)], True
    return [generator.randrange(total - length + 1) for _ in range(samples)], False


def window_rows(stream: Stream, offsets: Sequence[int], length: int, source: str) -> Iterable[dict[str, Any]]:
    """Rows of the TOKENS schema: each window's tokens, its offset, and the ids of the source rows it overlaps."""
    for sequence, offset in enumerate(offsets):
        first = max(bisect_right(stream.starts, offset) - 1, 0)
        last = bisect_right(stream.starts, offset + length - 1)
        yield {
            "sequence": sequence,
            "tokens": stream.tokens[offset : offset + length].tolist(),
            "source": source,
            "rows": stream.ids[first:last],
            "offset": offset,
        }
