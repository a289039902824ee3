"""A verdict has a limit of processor time, which no load of the machine touches; what reaches it is neither right nor wrong."""

import os
import signal
import time

import pytest
from ptqflow.evaluation import grading
from ptqflow.evaluation.scoring import generation

ENDLESS = r"\binom{300000000}{150000000}"


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch):
    """A worker of its own whose limit is one second."""
    monkeypatch.setattr(grading, "CPU_SECONDS", 1)
    grading._worker.cache_clear()
    yield
    grading._worker.cache_clear()


def test_what_takes_too_long_has_no_verdict_and_the_next_has(short_limit) -> None:
    correct, reason = grading.grade(ENDLESS, "7")
    assert correct is None
    assert "processor time" in str(reason)
    assert grading.grade(r"\frac{14}{2}", "7") == (True, None)


def test_a_stopped_clock_changes_no_verdict(short_limit) -> None:
    """The worker stands still for longer than its limit, as under load; only its own work counts."""
    assert grading.grade("6", "7") == (False, None)
    worker = grading._worker().process
    assert worker
    os.kill(worker.pid, signal.SIGSTOP)
    assert worker.stdin
    worker.stdin.write('["14/2", "7"]\n')
    worker.stdin.flush()
    time.sleep(1.5)
    os.kill(worker.pid, signal.SIGCONT)
    assert worker.stdout
    assert worker.stdout.readline() == "[true, null]\n"


def test_the_scorer_says_why_there_is_no_verdict() -> None:
    row = {"text": r"\boxed{9^{9^{9}}}", "gold": "9^{9^{9}}+1", "thinking": False, "finish_reason": "stop"}
    verdict = generation.score(row, generation.Metric())
    assert (verdict.extracted, verdict.correct) == ("9^{9^{9}}", None)
    assert "too large" in str(verdict.unscored)
    assert grading.grade(None, "7") == grading.grade("", "7") == (False, None)
