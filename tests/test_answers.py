"""Final answers: where they are looked for, and when they are right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptqflow.evaluation.answers import equal, extract, last_boxed, mathematically_equal

PLAIN = st.text(alphabet=st.characters(exclude_characters="{}\\", exclude_categories=["Cs"]), max_size=20)


@given(PLAIN, PLAIN, PLAIN)
def test_last_boxed_is_what_was_boxed_last(before: str, first: str, last: str) -> None:
    assert last_boxed(f"{before}\\boxed{{{first}}} so \\boxed{{{last}}}.") == last.strip()


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
        ("nothing", None),
    ],
)
def test_odd_boxes(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


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
    ],
)
def test_answer_is_read_after_thinking_boxed_first(text: str, options: dict, answer: str | None) -> None:
    assert extract(text, **options) == answer


@given(st.integers(-(10**9), 10**9))
def test_integers_equal_themselves_in_any_spelling(n: int) -> None:
    assert all(equal(spelling, str(n)) for spelling in (f"{n}", f" {n}.", f"${n}$", f"{n:,}", f"{n}.0"))
    assert not equal(str(n + 1), str(n))


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_different_integers_are_different(n: int, d: int) -> None:
    assert not equal(str(n), str(n + d))


def test_no_answer_is_wrong() -> None:
    assert not equal(None, "1")
    assert not equal("", "1")


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\dfrac12", r"\frac{1}{2}", True),
        ("1/3", "0.3333333", True),
        ("x+y", "y+x", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)", True),
        (r"3\sqrt{2}", r"\sqrt{18}", True),
        (r"\text{east}", r"\text{west}", False),
        ("(1,2)", "(2,1)", False),
        (r"\frac{1}{3}", "0.5", False),
        ("90\N{DEGREE SIGN}", r"90^\circ", True),
        ("\N{MINUS SIGN}5", "-5", True),
        ("\N{MINUS SIGN}5", "5", False),
        ("1,000", "1000", True),
        ("1.0000001", "1", True),  # 5 decimals
        ("1.00002", "1", False),
        ("(1,2)", "1<x<2", True),  # the gold answer may say more, not the other way round
        ("1<x<2", "(1,2)", False),
    ],
)
def test_equality_is_mathematical(answer: str, gold: str, same: bool) -> None:
    assert equal(answer, gold) == same


def test_mathematical_equality_agrees_with_the_fast_path() -> None:
    assert mathematically_equal("12", "12")
    assert not mathematically_equal("12", "13")


def test_scoring_leaves_gradients_on() -> None:
    import torch

    equal(r"\sqrt{4}", "2")
    assert torch.is_grad_enabled()
