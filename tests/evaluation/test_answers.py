"""Final answers: where they are looked for, and when they are right."""

import json
import time
from pathlib import Path

import pytest
from answer_pairs import RIGHT, WRONG, pairs
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ptqflow.evaluation.answers import extract, last_boxed
from ptqflow.evaluation.equality import equal
from ptqflow.evaluation.expressions import Undecided

PLAIN = st.text(alphabet=st.characters(exclude_characters="{}\\", exclude_categories=["Cs"]), max_size=20)


@settings(deadline=None)
@given(PLAIN, PLAIN, PLAIN)
def test_last_boxed_is_what_was_boxed_last(before: str, first: str, last: str) -> None:
    assume(last.strip() and first.strip() != last.strip())
    assert last_boxed(f"{before}\\boxed{{{first}}} so \\boxed{{{last}}}.") == last.strip()


@settings(deadline=None)
@given(st.recursive(PLAIN, lambda inner: inner.map(lambda s: f"\\frac{{{s}}}{{2}}"), max_leaves=4))
def test_nested_braces_are_balanced(content: str) -> None:
    assert last_boxed(f"The answer is $\\boxed{{{content}}}$.") == content.strip()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{1} then \boxed{2", "1"),
        (r"\fboxed {3}", "3"),
        (r"\boxed{}", ""),
        (r"\boxed{9}; \boxed{} is required", "9"),
        (r"x=\boxed{1} or $x=\boxed{-2}$", "1, -2"),
        (r"\boxed{3}, but then \boxed{7}", "7"),
        (r"\boxed{7}, \boxed{7}", "7"),
        (r"\boxed 12.", "12"),
        (r"\boxed{\frac{\boxed{1}}{2}}", r"\frac{\boxed{1}}{2}"),
        (r"\\boxed{3}", "3"),
        (r"{\boxed{3} and \boxed{\frac{1}{2}", "3"),
        ("nothing", None),
    ],
)
def test_odd_boxes(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


def test_a_repeated_box_is_read_in_one_pass() -> None:
    """A completion of 32,768 tokens that repeats an open box; with a pass from each of them, a minute."""
    start = time.process_time()
    assert extract("\\boxed{" * 11_000, truncated=True) is None
    assert last_boxed("\\boxed{" * 11_000 + "7", unclosed=True) == "7"
    assert time.process_time() - start < 5


def test_a_long_remark_before_a_number_is_read_at_once() -> None:
    """Each of its words was tried in every way to cut it into words: this sentence took longer than anyone waited."""
    said = "obtained by multiplying the second number with the first remainder that remains after division, so"
    start = time.process_time()
    assert extract(f"The answer is {said} 5.") == "5"
    assert extract(f"The answer is {said} that.") is None
    assert time.process_time() - start < 1


@pytest.mark.parametrize("loop", ["\n", "{", "- ", "^{", "\\", "\\( ", "wait, ", "choice is ", "Answer: ", "##", "</think>"])
def test_a_loop_to_the_last_token_is_read_in_one_pass(loop: str) -> None:
    """Of 100,000 characters, however the loop begins; with a pass from each of its turns, minutes."""
    start = time.process_time()
    for beginning in ("", "Answer: ", "So </think> the answer is "):
        extract(beginning + loop * (100_000 // len(loop)) + " 5")
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("text", "options", "answer"),
    [
        (r"so 4 </think> it is \boxed{5}", {"thinking": True}, "5"),
        (r"it is \boxed{4}", {"thinking": True}, None),  # cut off while thinking
        (r"<think> it is \boxed{4}", {}, None),
        (r"it is \boxed{4}", {"thinking": True, "legacy": True}, "4"),
        (r"\boxed{4} </think> hence 12.", {"thinking": True}, "12"),
        ("</think> it costs $1,234.50 in all.", {}, "1,234.50"),
        ("temperatures: -5 and -7", {}, "-7"),
        ("we compute 10-2=8", {}, "8"),
        ("10-2", {}, "2"),
        ("hence x = \N{MINUS SIGN}5", {}, "-5"),
        ("three quarters, 3/4", {}, "3/4"),
        ("adding 12 to 30 gives", {"truncated": True}, None),
        ("adding 12 to 30 gives", {"truncated": True, "legacy": True}, "30"),
        (r"\boxed{42} and", {"truncated": True}, "42"),
        ("no number", {}, None),
        (r"thought </think> \boxed{12}</think>", {"thinking": True}, "12"),
        (r"<think>a</think> \boxed{12} <think> \boxed{13}", {}, "12"),
        (r"<think>a</think> no <think>\boxed{1}</think> \boxed{12}", {}, "12"),
        (r"\boxed{12}</think>", {"thinking": True}, None),
        (r"The answer is $\boxed{12$", {}, "12"),
        (r"The answer is \boxed{12", {"truncated": True}, None),
        ("The answer is **Evelyn**.", {}, "Evelyn"),
        ("**Final answer: 14**", {}, "14"),
        ("The answer is 7 because 3+4.", {}, "7"),
        ("The answer is 42. I verified it, and the result is correct.", {}, "42"),
        ("#### 18\nThe answer is right.", {}, "18"),
        ("The answer is 42. I hope this answer is helpful!", {}, "42"),
        ("The result is 8 by 3, so the answer is no.", {}, "no"),
        ("The answer is ellipse.", {}, "ellipse"),
        ("The final answer is 6 - 5i.", {}, "6 - 5i"),
        ("The answer is x^2 + 1.", {}, "x^2 + 1"),
        ("The answer is (2, 3) for all of them.", {}, "(2, 3)"),
        ("The answer is 2ab - cd.", {}, "2ab - cd"),
        ("The answer is 2π.", {}, "2π"),
        ("Answer: 2 + 3i", {}, "2 + 3i"),
        ("The answer is 1.5 million dollars.", {}, "1.5 million"),
        ("The answers are 2 and 3.", {}, "2 and 3"),
        ("The answer is 12:30 pm.", {}, "12:30"),
        ("The answer is $18 per day.", {}, "18"),
        ("The answer is 5 feet 3 inches", {}, "5"),
        ("The answer is 42!", {}, "42"),
        ("The answer is 7, since 3+4=7.", {}, "7"),
        ("The answer is exactly 18 (eighteen).", {}, "18"),
        ("The answer is:\n$$\n42\n$$", {}, "42"),
        ("The answer is $5$, not $6$.", {}, "$5$"),
        (r"so it is $\frac{3}{4}$.", {}, r"\frac{3}{4}"),
        (r"The answer is 2\sqrt{3}.", {}, r"2\sqrt{3}"),
        ("Hence 20 kg^2", {}, "20"),
        ("Hence 9 - 4", {}, "4"),
        ("On June 12, 1999 she had seven books.", {}, "7"),
        (r"x \equiv 3 \pmod{7}", {}, "3"),
        (r"It comes to $9{,}500.", {}, "9{,}500"),
        (r"It comes to 9\,500 in all.", {}, r"9\,500"),
        ("It comes to 1\u202f234\u202f567 steps.", {}, "1\u202f234\u202f567"),
    ],
)
def test_answer_is_read_after_thinking_boxed_first(text: str, options: dict, answer: str | None) -> None:
    assert extract(text, **options) == answer


@settings(deadline=None)
@given(st.integers(-(10**9), 10**9))
def test_integers_equal_themselves_in_any_spelling(n: int) -> None:
    assert all(equal(spelling, str(n)) for spelling in (f"{n}", f" {n}.", f"${n}$", f"{n:,}", f"{n}.0"))
    assert not equal(str(n + 1), str(n))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_different_integers_are_different(n: int, d: int) -> None:
    assert not equal(str(n), str(n + d))


def test_no_answer_is_wrong() -> None:
    assert not equal(None, "1")
    assert not equal("", "1")


@pytest.mark.parametrize(("gold", "answer"), pairs(RIGHT))
def test_every_spelling_of_an_answer_is_right(gold: str, answer: str) -> None:
    assert equal(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), pairs(WRONG))
def test_what_says_something_else_is_wrong(gold: str, answer: str) -> None:
    assert not equal(answer, gold)


@settings(deadline=None)
@given(st.integers(0, 10**12), st.integers(1, 8), st.integers(1, 9))
def test_decimals_are_exact(digits: int, places: int, further: int) -> None:
    whole, part = divmod(digits, 10**places)
    decimal = f"{whole}.{part:0{places}d}"
    assert equal(rf"\frac{{{digits}}}{{{10**places}}}", decimal)
    assert equal(f"{decimal}000", decimal)
    assert not equal(f"{decimal}{further}", decimal)


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(2, 10**6))
def test_fractions_equal_their_multiples_only(p: int, q: int) -> None:
    assert equal(rf"\dfrac{{{3 * p}}}{{{3 * q}}}", f"{p}/{q}")
    assert not equal(f"{p + 1}/{q}", rf"\frac{{{p}}}{{{q}}}")


def test_size_is_no_excuse() -> None:
    """Large numbers are compared to their last digit, or not at all; never for long."""
    assert not equal("2^{100000}+1", "2^{100000}")
    assert equal("4^{50000}", "2^{100000}")
    assert not equal("9^{9^{9^9}}", "7")
    with pytest.raises(Undecided):
        equal("9^{9^{9}}", "9^{9^{9}}+1")


@settings(deadline=None)
@given(st.text(alphabet="\\{}()[]|<>=,;$%^_ 0123456789abfrcsqtx\n", max_size=30))
def test_any_text_has_a_verdict(text: str) -> None:
    assert equal(text, "7") in (True, False)
    assert equal("7", text) in (True, False)
    extract(text)


@pytest.mark.data
def test_hard_pairs_are_graded_as_a_careful_reader_does(data_root: Path) -> None:
    for line in (data_root.parent / "answers/pairs.jsonl").read_text().splitlines():
        pair = json.loads(line)
        answer = extract(pair["completion"], thinking=pair["thinking"], truncated=pair["truncated"])
        assert equal(answer, pair["gold"]) == pair["right"], pair


def test_scoring_leaves_gradients_on() -> None:
    import torch

    equal(r"\sqrt{4}", "2")
    assert torch.is_grad_enabled()
