"""Laws of the agreement table (`make check-evaluation`): what differs fails, and what was decided still stands."""

import json
import math
import sys
from types import SimpleNamespace

import pytest
from checkout import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests" / "agreement"))
import agree
import gold
import planted
import questions
from ptqflow.artifacts.evidence_schemas import AGREEMENT
from ptqflow.artifacts.tables import to_table
from ptqflow.evaluation.benchmark import load_items
from ptqflow.evaluation.equality import equal
from ptqflow.sources import Source
from transformers import AutoTokenizer

ITEM = {"alternatives": [("Is ice", " cold"), ("Is ice", " hot")], "logprobs": [-1.0, -2.0], "correct": True}
PAIRS = [{"gold": "7", "completion": "$\\boxed{8}$", "thinking": False, "truncated": False}]
HEAD = {"check": "c", "data": "d", "model": "m", "engine": "e", "reference": "r"}


def test_what_agrees_up_to_the_order_of_sums_passes():
    other = ITEM | {"alternatives": [list(pair) for pair in ITEM["alternatives"]], "logprobs": [-1.0001, -2.0]}
    row = agree.choice_row([ITEM], [other])
    assert row["passed"]
    assert row["difference"] == pytest.approx(1e-4)
    assert agree.loss_row([10.0, 11.0], [10.0, 11.001])["passed"]


@pytest.mark.parametrize(
    "change",
    [
        {"alternatives": [("Is ice", " cold"), ("Is ice", " hot.")]},
        {"logprobs": [-1.0, -2.1]},
        {"logprobs": [math.nan, -2.0]},
        {"correct": False},
    ],
)
def test_other_words_log_likelihoods_or_verdicts_fail(change):
    assert not agree.choice_row([ITEM], [ITEM | change])["passed"]
    assert not agree.choice_row([ITEM | change], [ITEM])["passed"]


def test_an_item_more_or_a_loss_that_is_no_number_fails():
    assert not agree.choice_row([ITEM], [ITEM, ITEM])["passed"]
    assert not agree.loss_row([10.0, math.nan], [10.0, 11.0])["passed"]


def test_a_disagreement_that_nobody_decided_fails():
    assert agree.answer_rows(PAIRS, [False])[0]["passed"]
    (row,) = agree.answer_rows(PAIRS, [True])
    assert not row["passed"]
    assert "1 undecided" in row["message"]
    assert to_table(AGREEMENT, [row]).num_rows == 1


def test_every_decision_is_about_what_we_say_today():
    known = {agree.key_of(pair): pair for pair in questions.answers(REPOSITORY)}
    lines = [json.loads(line) for line in (REPOSITORY / "tests/agreement/decisions.jsonl").read_text().splitlines()]
    for line in lines:
        assert set(line) - {"gold", "completion", "sha256"} == {"ours", "right", "why"}
        assert line["right"] in ("ours", "math-verify")
        assert len(line["why"]) > 10
        if "gold" in line:
            assert agree.key_of(line) in known
            assert equal(agree.extract(line["completion"]), line["gold"]) == line["ours"]
    assert len({line.get("sha256") or agree.key_of(line) for line in lines}) == len(lines)


def test_planted_rows_are_rows_of_our_benchmarks(tmp_path):
    root = planted.plant(tmp_path)
    tasks = questions.tasks(root)
    assert set(tasks) == set(questions.TASKS)
    for name, task in tasks.items():
        source = Source(path=task["path"], subset=task["subset"], split=task["split"])
        assert len(load_items(name, task["benchmark"], source)) >= 3


def test_the_oracle_finds_a_scorer_that_is_wrong():
    tokenizer = AutoTokenizer.from_pretrained(questions.DEMO)
    assert gold.row("facts", None, tokenizer)["passed"]
    assert gold.row("arithmetic", None, tokenizer)["passed"]
    assert gold.row("gsm8k", None, tokenizer)["passed"] is None
    found = gold.items(None, "facts")[:40]
    generous = SimpleNamespace(BENCHMARK=gold.benchmark.load("choices").BENCHMARK, score=lambda *_: SimpleNamespace(correct=True))
    right = gold._choices("facts", generous, found, [*range(1, 40), 0], tokenizer)
    assert right["gold"] == 40
    assert right["shuffled"] != right["chance"]
