"""Settings of what is asked: AISBench's words and extraction, system prompt, examples, arguments of the chat template."""

import json
import time
from pathlib import Path

import pytest
from ptqflow.chat import ChatSettings
from ptqflow.errors import ConfigError
from ptqflow.evaluation import aisbench
from ptqflow.evaluation.benchmark import load, load_items
from ptqflow.evaluation.requests.generation import chat_prompt
from ptqflow.evaluation.scoring.generation import Metric
from ptqflow.evaluation.tasks import task
from ptqflow.sources import Source
from pydantic import ValidationError
from talking_models import byte_tokenizer

QWEN3 = (
    "{% for m in messages %}<user>{{ m.role }}:{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SOLVED = {"prompt": "1+1?", "completion": "2"}


def prompt(chat: ChatSettings, template: str = QWEN3) -> tuple[str, bool]:
    tokenizer = byte_tokenizer(template)
    tokens, thinking = chat_prompt(tokenizer, "Why?", "task t", chat)
    return tokenizer.decode(tokens), thinking


def test_system_prompt_and_examples_stand_before_the_question() -> None:
    chat = ChatSettings(system="Be brief.", examples=[SOLVED])
    assert prompt(chat)[0] == "<user>system:Be brief.<user>user:1+1?<user>assistant:2<user>user:Why?<assistant>"
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "q"}]
    assert [turn["content"] for turn in chat.conversation(own)] == ["own", "1+1?", "2", "q"]
    assert list(ChatSettings().conversation(own)) == own


def test_arguments_reach_the_template_and_unknown_ones_are_refused() -> None:
    assert prompt(ChatSettings(chat_template_kwargs={"enable_thinking": False}))[0].endswith("</think>\n\n")
    assert not prompt(ChatSettings(chat_template_kwargs={"enable_thinking": True}))[0].endswith("</think>\n\n")
    with pytest.raises(
        ConfigError, match=r"task t: chat_template_kwargs\.enable_thinkin is not read by the model's chat template"
    ):
        prompt(ChatSettings(chat_template_kwargs={"enable_thinkin": False}))
    with pytest.raises(ConfigError, match=r"chat_template_kwargs\.tokenize is set by ptqflow"):
        prompt(ChatSettings(chat_template_kwargs={"tokenize": True}))


def test_settings_of_the_chat_are_keys_of_a_task_and_change_what_is_asked() -> None:
    entry = {"benchmark": "gsm8k", "source": {"path": "x"}}
    plain = task(entry)
    keys = {"system": "s", "examples": [SOLVED], "chat_template_kwargs": {"enable_thinking": False}}
    asked = task(entry | keys)
    assert asked.asks == plain.asks | keys
    assert asked.metric == plain.metric
    with pytest.raises(ValidationError, match="examples"):
        task(entry | {"examples": [{"prompt": "1+1?"}]})


def test_aisbench_asks_in_its_words_and_reads_what_it_reads() -> None:
    theirs = task({"benchmark": "math-500", "source": {"path": "x"}, "protocol": "aisbench"})
    assert (theirs.asks["protocol"], theirs.metric) == ("aisbench", {"scorer": "aisbench"})
    assert task({**theirs.model_dump(), "scorer": "final"}).metric == {"scorer": "final"}
    item = load("aime").item({"problem": "1+1 {x}?", "answer": "2"}, 0)
    tail = "Please reason step by step, and put your final answer within \\boxed{}."
    assert item.asked("aisbench", 0).prompt == f"1+1 {{x}}?\n{tail}"
    assert item.asked("paper", 0).prompt == f"1+1 {{x}}?\n\n{tail}"
    grade = load("gsm8k").item({"question": "How many?", "answer": "#### 3"}, 0).asked("aisbench", 0).prompt
    assert grade.startswith("Answer the following question.The last line")
    assert grade.endswith("\n\nQuestion: How many?")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5?</think>It is \\boxed{7}.", "7"),
        ("<think>5?</think>It is \\boxed{{7}}.", "7"),
        ("\\boxed{5} is in the thinking, which never ends", "5"),
        ("5?</think>So x = 2. The answer is 7. Good.", "7"),
        ("5?</think>So it is \\boxed{7", "So it is \\boxed{7"),  # braces that do not close: the first sentence
    ],
)
def test_aisbench_reads_the_last_box_or_a_sentence(text: str, answer: str) -> None:
    assert aisbench.formula(aisbench.spoken(text)) == answer


def test_aisbench_leaves_out_closed_sections_and_reads_a_loop_of_open_ones_in_one_pass() -> None:
    assert aisbench.spoken("<think>a</think> 1 <think>b</think> 2 <think>c") == "1  2 <think>c"
    start = time.process_time()
    assert aisbench.spoken("<think>" * 30_000 + "5").endswith("<think>5")
    assert time.process_time() - start < 2


def test_aisbench_reads_the_last_number_of_gsm8k() -> None:
    said = {"text": "5?</think>It is 7, so answer:\\boxed{42} or 40\n\nQuestion: 9", "finish_reason": "stop", "thinking": True}
    verdicts = [load("gsm8k").score(said | {"gold": "40"}, Metric(scorer=scorer)).correct for scorer in ("aisbench", "final")]
    assert verdicts == [True, False]


def test_aime_120_is_ninety_and_thirty_rows_of_one_task(tmp_path: Path) -> None:
    for name, count in (("aime90", 90), ("aime25", 30)):
        rows = [json.dumps({"problem": f"{name} {n}", "answer": str(n)}) + "\n" for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    entry = task(
        {"benchmark": "aime-120", "source": [{"path": str(tmp_path / f"{name}.jsonl")} for name in ("aime90", "aime25")]}
    )
    said: list[str] = []
    items = load_items("aime-120", entry.benchmark, entry.sources, None, said.append)
    assert len({item.id for item in items}) == 120
    assert said == []
    assert (items[0].id, items[90].id, items[90].problem) == ("1-00", "2-00", "aime25 0")
    assert len(load_items("aime-120", entry.benchmark, entry.sources, 95)) == 95
    alone = load_items("t", "aime", Source(path=str(tmp_path / "aime25.jsonl")))
    assert alone[3].id == "03"
