"""Prompts depend on neither the day nor the field that holds the thinking; a template that fails is said with its row."""

import time
from datetime import datetime

import pytest
from model_folder import CHAT_TEMPLATE, write_tokenizer
from ptqflow import chat
from ptqflow.chat import TODAY, prompt_of, with_thinking
from ptqflow.errors import ConfigError
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

ASKED = [{"role": "user", "content": "2 + 3?"}]
DATED = "{%- if strftime_now is defined %}{{ strftime_now('%d %b %Y, %-d/%m, %A') }}{% endif %}|" + CHAT_TEMPLATE


@pytest.fixture
def tokenizer(tmp_path):
    def of(template):
        write_tokenizer(tmp_path, template)
        return AutoTokenizer.from_pretrained(tmp_path)

    return of


def test_a_dated_template_writes_one_day(tokenizer, monkeypatch):
    class Moved(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 2, 3, tzinfo=tz)

    monkeypatch.setattr(chat_template_utils, "datetime", Moved)
    text = prompt_of(tokenizer(DATED), ASKED, "row 1")
    assert text.startswith("26 Jul 2024, 26/07, Friday|")
    assert TODAY.isoformat() == "2024-07-26"


def test_other_templates_are_asked_as_they_are(tokenizer):
    plain = tokenizer(CHAT_TEMPLATE)
    assert prompt_of(plain, ASKED, "row 1") == plain.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{% for %}", "{{ messages[7].content.x }}", "{{ 1 / 0 }}"])
def test_a_template_that_fails_is_one_sentence(tokenizer, template):
    with pytest.raises(ConfigError, match=r"row 7: the model's chat template fails on it \(\w+: .*; correct the messages"):
        prompt_of(tokenizer(template), ASKED, "row 7")


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
def test_thinking_in_a_field_of_its_own_is_read_as_the_model_writes_it(tokenizer, field):
    turn = {"role": "assistant", "content": "\n5", field: "2 and 3.\n"}
    assert with_thinking(tokenizer(CHAT_TEMPLATE), turn, turn["content"], "row 1") == "<think>\n2 and 3.\n</think>\n\n5"
    assert with_thinking(tokenizer(CHAT_TEMPLATE), {**turn, field: None}, "5", "row 1") == "5"
    with pytest.raises(ConfigError, match=f"row 1: {field} has no place in this model's turns"):
        with_thinking(tokenizer("{{ messages }}"), turn, "5", "row 1")
    with pytest.raises(ConfigError, match=f"row 1: {field} is no text"):
        with_thinking(tokenizer(CHAT_TEMPLATE), {**turn, field: ["2"]}, "5", "row 1")


@pytest.mark.parametrize("lead", ["", "\n", "  ", "\n\n  ", "{% if true %}\n  {% endif %}", "  {% if true %} x{% endif %}"])
def test_a_dated_template_keeps_its_white_space(tokenizer, lead):
    dated = tokenizer(lead + "{{ messages[0].content }}{# strftime_now #}")
    assert prompt_of(dated, ASKED, "row 1") == dated.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("template", [LOOPS, "{{ (9**(9**9)) % 7 }}", "{{ 'x' * 2**40 }}"])
def test_a_template_that_never_ends_or_fills_the_memory_is_one_sentence_and_the_next_is_asked(tokenizer, monkeypatch, template):
    monkeypatch.setattr(chat, "CPU_SECONDS", 1)
    chat._worker.cache_clear()
    why = "MemoryError" if "2**40" in template else "it takes more than 1 s of processor time"
    with pytest.raises(ConfigError, match=rf"row 7: the model's chat template fails on it \({why}.*; correct the messages, or"):
        prompt_of(tokenizer(template), ASKED, "row 7")
    assert prompt_of(tokenizer("{{ messages[0].content }}"), ASKED, "row 8") == "2 + 3?"
    chat._worker.cache_clear()


def test_all_rows_share_one_worker_and_cost_little(tokenizer):
    plain = tokenizer(CHAT_TEMPLATE)
    prompt_of(plain, ASKED, "row 1")
    worker = chat._worker().process
    start = time.perf_counter()
    for number in range(200):
        assert f"{number} + 3?" in prompt_of(plain, [{"role": "user", "content": f"{number} + 3?" * 100}], "row")
    assert chat._worker().process is worker
    assert time.perf_counter() - start < 2


def test_a_message_that_no_template_takes_is_one_sentence(tokenizer):
    with pytest.raises(ConfigError, match=r"row 7: .* \(TypeError: .*datetime is not JSON"):
        prompt_of(tokenizer(CHAT_TEMPLATE), [{"role": "user", "content": datetime(2024, 1, 1)}], "row 7")


@pytest.mark.parametrize("code", ["%%d", "%d%%", "%%%d", "100%% %%B %B", "%%%%d"])
def test_an_escaped_code_of_a_date_stays(tokenizer, code):
    assert prompt_of(tokenizer(f"{{{{ strftime_now({code!r}) }}}}"), ASKED, "row") == TODAY.strftime(code)
