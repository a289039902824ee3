"""How completions end: loops, thinking without end, silence."""

import random

import pytest
from ptqflow.evaluation import symptoms


def row(text="", tokens=(), thinking=False):
    return {"text": text, "tokens": list(tokens), "thinking": thinking}


def prose(length, seed=0):
    """Tokens as frequent as words are."""
    generator = random.Random(seed)
    return [int(generator.paretovariate(1)) for _ in range(length)]


@pytest.mark.parametrize("period", [1, 3, 40, 300])
def test_a_tail_that_repeats_is_a_loop_however_long_its_period(period):
    start, phrase = prose(500), prose(period, seed=1)
    assert symptoms.is_looping(start + phrase * (4 + 600 // period))


def test_a_loop_that_counts_its_rounds_is_one():
    phrase = [1000 + i for i in range(60)]
    assert symptoms.is_looping([token for n in range(40) for token in [*phrase, 5000 + n]])


@pytest.mark.parametrize("length", [3, 100, 128, 1000, 20_000])
def test_prose_short_answers_and_a_phrase_said_twice_are_no_loops(length):
    assert not symptoms.is_looping([generator_token * 10_000 + i for i, generator_token in enumerate(prose(length))])
    distinct = list(range(length))
    assert not symptoms.is_looping(distinct + distinct)


def test_a_loop_that_was_left_behind_is_forgiven():
    assert not symptoms.is_looping([7] * 150 + list(range(12_000)))


@pytest.mark.parametrize(
    ("found", "open_thinking", "silent"),
    [
        (row("The answer is 3."), None, False),
        (row("   \n"), None, True),
        (row("so 3</think>\n3", thinking=True), False, False),
        (row("so 3", thinking=True), True, True),
        (row("so 3</think>\n", thinking=True), False, True),
        (row("<think>so 3</think>3"), False, False),
        (row("<think>so 3"), True, True),
        (row("3 <think>or 4"), True, False),
    ],
)
def test_thinking_and_silence(found, open_thinking, silent):
    shown = symptoms.of(found)
    assert (shown["open_thinking"], shown["silent"]) == (open_thinking, silent)


def test_what_was_not_generated_shows_nothing():
    assert set(symptoms.of({"text": None, "tokens": None}).values()) == {None}
