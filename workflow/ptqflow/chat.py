"""A model's chat template, asked for text: a program of the model's makers, which may fail, look at the calendar, or never end.

It runs in a worker process, one for all rows, which the kernel stops at a limit of processor time and memory.
"""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import cache
from string import ascii_letters
from typing import Any

from ptqflow.datamodel import Model
from ptqflow.errors import ConfigError
from ptqflow.worker import OutOfTimeError, Worker, WorkerEndedError

CPU_SECONDS = 5  # of one conversation; a thousand times what the longest takes

# Templates of Llama 3.x, Granite and others write today's date into the prompt (`strftime_now`), so scores would change with the
# day. This one stands in: Llama 3.x's own template falls back to it.
TODAY = date(2024, 7, 26)
THINK, END_THINK = "<think>", "</think>"
_THINKING = ("reasoning_content", "thinking", "reasoning")  # where engines' servers put what a model thought


class Example(Model):
    """One solved example: what the user asks, and what the assistant answers."""

    prompt: str
    completion: str


class ChatSettings(Model):
    """What stands around a user's turn: a `system` prompt, `examples` as earlier turns, arguments of the chat template.

    `chat_template_kwargs`: such as `enable_thinking: false` of Qwen3; a name that the model's template does not read is refused.
    """

    system: str | None = None
    examples: list[Example] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def conversation(self, turns: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The turns behind system prompt and examples; turns that begin with a system prompt of their own keep that."""
        own = bool(turns) and turns[0].get("role") == "system"
        system = [turns[0]] if own else [{"role": "system", "content": self.system}] if self.system is not None else []
        shown: list[Mapping[str, Any]] = []
        for example in self.examples or ():
            shown += [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.completion}]
        return [*system, *shown, *(turns[1:] if own else turns)]


def _arguments(tokenizer: Any, template: str, arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments, if they are the template's alone, and it reads each."""
    if not arguments:
        return {}
    taken = set(inspect.signature(tokenizer.apply_chat_template).parameters) - {"tools", "documents"}
    if ours := sorted(taken & arguments.keys()):
        raise ConfigError(f"{where}: chat_template_kwargs.{ours[0]} is set by ptqflow; remove it, or correct its name")
    check_arguments([template], arguments, where)
    return dict(arguments)


def check_arguments(templates: Sequence[str], arguments: Iterable[str], where: str) -> None:
    """Refuse, as of `where`, a name that none of a model's chat templates reads: it would change nothing, silently."""
    for name in arguments:
        if not any(re.search(rf"\b{re.escape(name)}\b", template) for template in templates):
            raise ConfigError(
                f"{where}: chat_template_kwargs.{name} is not read by the model's chat template; remove it, or correct its name"
            )


def prompt_of(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    where: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    answer_follows: bool = True,
) -> str:
    """The text of a conversation, up to where the assistant goes on; all of it if no `answer_follows`.

    `arguments` go to the template. Raises ConfigError, of `where`, if the template fails, or does not read one of them.
    """
    if not tokenizer.chat_template:
        raise ConfigError(f"{where}: the model's tokenizer has no chat template; use an instruction-tuned model, or plain text")
    text, why = None, ""
    try:
        template = tokenizer.get_chat_template()
        asked = _arguments(tokenizer, template, arguments or {}, where) | {"add_generation_prompt": answer_follows}
        text, why = _worker()(_dated(template), tokenizer.special_tokens_map, [*map(dict, messages)], asked)
    except OutOfTimeError as limit:
        why = f"it takes {limit}"
    except WorkerEndedError as end:
        why = str(end)
    except (TypeError, ValueError) as error:  # no default among several templates; a message that is no JSON
        why = f"{type(error).__name__}: {error}"
    if text is None:
        raise ConfigError(f"{where}: the model's chat template fails on it ({why}); correct the messages, or the template")
    return str(text)


@cache
def _worker() -> Worker:
    return Worker(_render, CPU_SECONDS, "", {}, [{"role": "user", "content": ""}], {})


def _render(
    template: str, special_tokens: Mapping[str, str], messages: list[dict[str, Any]], arguments: Mapping[str, Any]
) -> tuple[str | None, str]:
    """(text, ""), or (None, why there is none): what a tokenizer of this template and these tokens writes."""
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    asked: dict[str, Any] = {"chat_template": template, "tokenize": False, **special_tokens, **arguments}
    try:
        return str(PreTrainedTokenizerBase().apply_chat_template(messages, **asked)), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def _dated(template: str) -> str:
    """The template with `strftime_now` of `TODAY`, as a macro of its own, which hides transformers' function of that name.

    Codes are replaced between escaped %%. Its line ends with a newline, which `trim_blocks` removes: the template still starts a
    line, and keeps its own white space.
    """
    if "strftime_now" not in template:
        return template
    codes = [f"%{mark}{code}" for mark in ("-", "") for code in ascii_letters if TODAY.strftime(f"%{code}") != f"%{code}"]
    replaced = "".join(f"|replace({code!r}, {TODAY.strftime(code)!r})" for code in codes)
    between = f"{{%- for part in format.split('%%') -%}}{{{{ '%' if not loop.first }}}}{{{{ part{replaced} }}}}{{%- endfor -%}}"
    return f"{{%- macro strftime_now(format) -%}}{between}{{%- endmacro %}}\n{template}"


def with_thinking(tokenizer: Any, message: Mapping[str, Any], content: str, where: str) -> str:
    """An assistant's turn as the model generates it: what it thought, if a field of its own holds that, then `content`.

    Raises ConfigError naming the field where the model's template knows no marks of thinking, or the field holds no text.
    """
    field = next((name for name in _THINKING if message.get(name)), None)
    if field is None:
        return content
    thought, template = message[field], tokenizer.chat_template
    marks = END_THINK in (template if isinstance(template, str) else "".join(map(str, (template or {}).values())))
    if not isinstance(thought, str) or not marks:
        why = "is no text" if not isinstance(thought, str) else f"has no place in this model's turns, which have no {END_THINK}"
        raise ConfigError(f"{where}: {field} {why}; write the whole turn into content, or remove the field")
    return f"{THINK}\n{thought.strip()}\n{END_THINK}\n\n{content.lstrip()}"
