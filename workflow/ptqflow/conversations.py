"""Rows of conversations as data sets publish them, in the one form that chat templates read: turns of `role` and `content`.

Read as they come: `messages` of role and content; ShareGPT's `conversations` of from and value; instruction, input and output
(Alpaca), with `system` and `history`. Content may be text or parts of text; calls of tools keep their place, their
arguments as data.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ptqflow.errors import ConfigError

Turn = dict[str, Any]
_SHARED = "conversations"
_ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "function_call"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response"), "tool"),
}


def turns_of(row: Mapping[str, Any], messages: str, where: str) -> list[Turn] | None:
    """The turns of a row: of its column `messages`, `conversations`, or instruction and output; None if it has none of these.

    Raises ConfigError, of `where`, for turns that are none.
    """
    column = next((name for name in (messages, _SHARED) if row.get(name) is not None), None)
    if column is not None:
        turns = row[column]
        if not isinstance(turns, Sequence) or not turns or not all(isinstance(turn, Mapping) for turn in turns):
            raise ConfigError(f"{where}: {column} is not a list of messages with role and content, or from and value")
        own = [{"role": "system", "content": row["system"]}] if row.get("system") and column == _SHARED else []
        return own + [_turn(turn, column, where) for turn in turns]
    return _instructed(row, where) if row.get("instruction") is not None and row.get("output") is not None else None


def has_turns(row: Mapping[str, Any]) -> bool:
    """Whether a row is in one of the layouts of conversations that need no names of columns."""
    return _SHARED in row or {"instruction", "output"} <= row.keys()


def tools_of(row: Mapping[str, Any], where: str) -> list[Any] | None:
    """The tools that a row offers to the model, if any."""
    tools = _data(row.get("tools"), f"{where}: tools") if row.get("tools") else None
    if tools is not None and not isinstance(tools, list):
        raise ConfigError(f"{where}: tools is a {type(tools).__name__}, not a list; give a list of tools")
    return tools or None


def _instructed(row: Mapping[str, Any], where: str) -> list[Turn]:
    asked = "\n\n".join(_text(row[name], f"{where}: {name}") for name in ("instruction", "input") if row.get(name))
    turns: list[Turn] = [{"role": "system", "content": _text(row["system"], f"{where}: system")}] if row.get("system") else []
    for exchange in row.get("history") or ():
        if not isinstance(exchange, Sequence) or len(exchange) != 2:
            raise ConfigError(f"{where}: history is not a list of [question, answer]")
        turns += [{"role": role, "content": said} for role, said in zip(("user", "assistant"), exchange, strict=True)]
    answer = _text(row["output"], f"{where}: output")
    return [*turns, {"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _turn(turn: Mapping[str, Any], column: str, where: str) -> Turn:
    said = {key: value for key, value in turn.items() if value is not None}  # Parquet gives every turn every key
    speaker = said.pop("role", said.pop("from", None))
    if speaker not in _ROLES:
        raise ConfigError(f"{where}: {column} has a turn of {speaker!r}; use {', '.join(_ROLES)}")
    content = said.pop("content", said.pop("value", None))
    if speaker == "function_call":
        said["tool_calls"], content = [{"type": "function", "function": _data(content, f"{where}: {column}: {speaker}")}], ""
    if content is None and "tool_calls" not in said:
        raise ConfigError(f"{where} has a turn with no column 'content' or 'value' but {', '.join(map(repr, turn)) or 'none'}")
    found: Turn = {**said, "role": _ROLES[speaker], "content": _text(content or "", f"{where}: content")}
    if calls := said.get("tool_calls"):
        found["tool_calls"] = [_call(call, where) for call in calls]
    return found


def _call(call: Any, where: str) -> Any:
    """A call of a tool whose arguments are data: as the text that servers send, templates would quote them once more."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise ConfigError(f"{where}: tool_calls holds {call!r}, not a function with name and arguments")
    arguments = _data(function.get("arguments", {}), f"{where}: arguments of {function['name']}")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _data(value: Any, where: str) -> Any:
    """JSON that a column holds as text, or as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON ({error}); correct it") from None


def _text(content: Any, where: str) -> str:
    """Content as text: itself, or its parts of text joined."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else part for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            odd = next(part for part in parts if not isinstance(part, str))
            kind = odd.get("type") if isinstance(odd, Mapping) else type(odd).__name__
            raise ConfigError(f"{where} has a part of type {kind}, which is no text; leave such rows out")
        return "".join(map(str, parts))
    if not isinstance(content, str):
        raise ConfigError(f"{where} is a {type(content).__name__}, not text; give one string per row")
    return content
