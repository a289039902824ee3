"""Rows are read as data sets publish them: ShareGPT, Alpaca, content in parts, calls of tools; others are refused."""

import json

import pytest
from ptqflow.calibration import CalibrationSettings, documents
from ptqflow.conversations import tools_of, turns_of
from ptqflow.errors import ConfigError
from pydantic import ValidationError
from talking_models import byte_tokenizer

# Marks of Qwen's template: roles, calls of tools as JSON, arguments as data.
TEMPLATE = (
    "{% if tools %}<tools>{% for t in tools %}{{ t.name }}{% endfor %}</tools>{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<call>{{ c.function.name }}:{{ c.function.arguments | tojson }}</call>{% endfor %}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SHARED = {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]}
ASKED = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 1}'}}


def document(row: dict, **changes) -> str:
    settings = CalibrationSettings.model_validate({"source": {"path": "x.jsonl"}, "format": "chat", **changes})
    found = documents([row], settings, byte_tokenizer(TEMPLATE))[0]
    return found.prompt + "|" + found.completion + "|" + found.end


@pytest.mark.parametrize(
    "row",
    [
        SHARED,
        {"messages": ASKED},
        {"conversations": ASKED},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}]}, ASKED[1]]},
        {"messages": [{**ASKED[0], "tool_calls": None, "name": None}, {**ASKED[1], "tool_calls": None}]},  # as Parquet has it
        {"instruction": "1+1?", "input": "", "output": "2"},
        {"instruction": "1+1?", "output": "2", "history": []},
        {"prompt": "1+1?", "completion": "2"},
    ],
)
def test_one_conversation_in_every_layout_is_one_text(row: dict) -> None:
    assert document(row) == "<user>1+1?<eos>\n<assistant>|2|<eos>"


def test_system_history_and_input_have_their_places() -> None:
    row = {"instruction": "Add.", "input": "1+1", "output": "2", "system": "S", "history": [["0+0?", "0"]]}
    assert document(row) == "<system>S<eos>\n<user>0+0?<eos>\n<assistant>0<eos>\n<user>Add.\n\n1+1<eos>\n<assistant>|2|<eos>"
    assert document(SHARED | {"system": "S"}).startswith("<system>S<eos>\n<user>")
    assert document(SHARED, system="T", examples=[{"prompt": "0+0?", "completion": "0"}]).startswith(
        "<system>T<eos>\n<user>0+0?<eos>\n<assistant>0<eos>\n<user>1+1?"
    )


def test_calls_of_tools_are_written_as_the_template_writes_them() -> None:
    tools = json.dumps([{"name": "add"}])
    past = [ASKED[0], {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "2"}, ASKED[1]]
    called = '<assistant><call>add:{"a": 1, "b": 1}</call><eos>\n'
    assert document({"messages": past, "tools": tools}) == (
        f"<tools>add</tools><user>1+1?<eos>\n{called}<tool>2<eos>\n<assistant>|2|<eos>"
    )
    last = document({"messages": past[:2], "tools": tools})
    assert last == '<tools>add</tools><user>1+1?<eos>\n<assistant>|<call>add:{"a": 1, "b": 1}</call>|<eos>'
    shared = [{"from": "human", "value": "1+1?"}, {"from": "function_call", "value": json.dumps(CALL["function"])}]
    shared[1]["value"] = '{"name": "add", "arguments": {"a": 1, "b": 1}}'
    assert document({"conversations": shared, "tools": tools}) == last


def test_instructions_are_plain_text_too() -> None:
    settings = CalibrationSettings.model_validate({"source": {"path": "x.jsonl"}})
    found = documents([{"instruction": "Add.", "input": "1+1", "output": "2"}], settings, byte_tokenizer(TEMPLATE))[0]
    assert (found.prompt, found.completion) == ("Add.\n\n1+1\n\n", "2")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": [{"from": "martian", "value": "x"}]}, "row 7: conversations has a turn of 'martian'; use user, human"),
        ({"conversations": []}, "conversations is not a list of messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "content has a part of type image_url"),
        ({"messages": [{"role": "user"}]}, "a turn with no column 'content' or 'value' but 'role'"),
        ({"messages": [{"role": "user", "content": 5}]}, "content is a int, not text"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": ["x"]}]}, "tool_calls holds 'x', not a function"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "function_call is not JSON"),
        ({"instruction": "a", "output": "b", "history": ["x"]}, "history is not a list of"),
        ({"instruction": ["a"], "output": "b"}, None),
    ],
)
def test_what_is_no_conversation_is_refused_by_its_row(row: dict, message: str | None) -> None:
    if message is None:  # parts of text are text in every column
        assert turns_of(row, "messages", "row 7")[0]["content"] == "a"
    else:
        with pytest.raises(ConfigError, match=message):
            turns_of(row, "messages", "row 7")
    with pytest.raises(ConfigError, match="tools is a dict, not a list"):
        tools_of({"tools": '{"a": 1}'}, "row 7")


def test_a_row_of_other_columns_is_left_to_the_fields() -> None:
    assert turns_of({"prompt": "a", "completion": "b", "input": "c"}, "messages", "row 7") is None


def test_chat_settings_mean_nothing_to_plain_text() -> None:
    with pytest.raises(ValidationError, match="system means nothing to format plain"):
        CalibrationSettings.model_validate({"source": {"path": "x.jsonl"}, "system": "S"})
