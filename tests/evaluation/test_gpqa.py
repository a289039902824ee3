"""GPQA: each (item, seed) has an order of options of its own, which is stored; the letter is read as it was asked for."""

import time
from collections import Counter
from pathlib import Path

import pytest
from ptqflow.errors import ArtifactError
from ptqflow.evaluation.benchmark import load, load_items
from ptqflow.evaluation.letters import letter
from ptqflow.evaluation.requests.generation import Protocol, generate
from ptqflow.evaluation.scoring.generation import Metric
from ptqflow.sources import Source
from scipy.stats import chisquare
from test_generation import Scripted

GPQA = load("gpqa")
# A planted question under the published table's header, as far as it is read.
HEADER = ["Record ID", "Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]


def row(number: int) -> dict[str, str]:
    return dict(zip(HEADER, [f"rec{number}", f"What is {number}?", "right", "wrong 1", "wrong 2", "wrong 3"], strict=True))


def table(folder: Path, rows: list[dict[str, str]]) -> Source:
    lines = [",".join(f'"{cell}"' for cell in cells) for cells in (HEADER, *(list(r.values()) for r in rows))]
    (folder / "gpqa_diamond.csv").write_text("\n".join(lines) + "\n")
    return Source(path=str(folder), file="gpqa_diamond.csv")


def test_the_right_option_is_under_the_letter_that_is_gold() -> None:
    for protocol in ("paper", "aisbench"):
        for number in range(40):
            asked = GPQA.item(row(number), number).asked(protocol, 7)
            assert asked.prompt.startswith("Answer the following multiple choice question.")
            assert f"{asked.gold}) right" in asked.prompt.splitlines()
            assert [asked.prompt.splitlines()[-4:][k][3:] for k in range(4)] == [
                ["right", "wrong 1", "wrong 2", "wrong 3"][option] for option in asked.options
            ]


def test_orders_are_equally_frequent_over_items_and_seeds_and_fixed_for_each() -> None:
    orders = [GPQA.item(row(n), n).asked("paper", seed).options for n in range(200) for seed in range(6)]
    counts = Counter(orders)
    assert len(counts) == 24
    assert chisquare(list(counts.values())).pvalue > 0.001
    assert orders[0] == GPQA.item(row(0), 99).asked("paper", 0).options == (3, 0, 1, 2)  # the row's place changes nothing


def test_aisbench_shows_its_four_orders_by_row() -> None:
    assert [GPQA.item(row(n), n).asked("aisbench", 5).gold for n in range(5)] == ["D", "C", "B", "A", "D"]


def test_the_order_is_stored_with_the_completion(tmp_path: Path) -> None:
    items = load_items("t", "gpqa", table(tmp_path, [row(n) for n in range(6)]), 6)
    rows = generate("t", items, Scripted(False), Protocol(), 3, 2)
    for said in rows:
        item = next(item for item in items if item.id == said["item"])
        assert (said["options"], said["gold"]) == (item.asked("paper", 3).options, item.asked("paper", 3).gold)


def test_a_table_that_is_cut_or_lacks_an_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"row 0 .* is not a row of gpqa .*Incorrect Answer 2"):
        load_items("t", "gpqa", table(tmp_path, [row(0) | {"Incorrect Answer 2": ""}]))
    (tmp_path / "gpqa_diamond.csv").write_text(",".join(HEADER) + '\n"rec1","Why?"\n')
    with pytest.raises(ArtifactError, match="2 cells, its header 6"):
        load_items("t", "gpqa", Source(path=str(tmp_path), file="gpqa_diamond.csv"))


def test_another_number_of_items_than_published_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    load_items("t", "gpqa", table(tmp_path, [row(n) for n in range(3)]), None, said.append)
    assert said == ["task t: 3 items; published scores of gpqa are of 198"]


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        ("Answer: B", "B"),
        ("Answer: $B$", "B"),
        ("**Answer: C**", "C"),
        ("**Answer:** C", "C"),
        ("**Answer：** C", "C"),  # a colon of full width, as models trained on Chinese write it
        ("The answer is：(D)", "D"),
        ("Answer: **(D)**", "D"),
        ("Answer: \\boxed{A}", "A"),
        ("Answer: $\\boxed{\\text{B}}$", "B"),
        ("answer: b\n", None),
        ("Answer: Option C", "C"),
        ("Final Answer: D) 3.2 eV", "D"),
        ("First I thought Answer: A. No.\nAnswer: C", "C"),
        ("Answer: B The reason is entropy", "B"),
        ("Answer: A detailed look shows that it is C.\nAnswer: C", "C"),
        ("Answer: A because it is larger", "A"),
        ("The format is 'Answer: $LETTER'. \\boxed{D}", "D"),
        ("So \\boxed{\\textbf{(C)}} it is", "C"),
        ("The correct answer is B.", "B"),
        ("The correct answer is **(A)** 12 J", "A"),
        ("the correct option is D", "D"),
        ("It follows that\n**C**", "C"),
        ("It follows that\n**Option (C)**", "C"),
        ("Option C is correct.", "C"),
        ("Option A is incorrect. **Option (B)** is the correct answer, for D is too large.", "B"),
        ("Option C is not correct.", None),
        ("(C) is correct.", "C"),
        ("Thus, (C) is correct.", "C"),
        ("So a right triangle. Hence B is right as the angle is.", "B"),
        ("B is wrong, for it is too large. **(C)** is the correct answer.", "C"),
        ("Whether (C) is correct depends on the spin.", None),
        ("(C) is incorrect.", None),
        ("B is right-handed.", None),
        ("A is best described as an ester. So the product is chiral.", None),
        ("The answer is not B.", None),
        ("It is not\nB is wrong", None),
        ("I do not think that option B is correct, for it is too large.\n\n**C**", "C"),
        ("Let us see whether option B is correct.", None),
        ("Neither option C nor option D is correct.", None),
        ("Choice a is best", None),
        ("I would choose (B)\n", None),
        ("Answer: E", None),
        ("no idea", None),
        ("", None),
    ],
)
def test_the_letter_is_read_as_it_was_asked_for(said: str, chosen: str | None) -> None:
    assert letter(f"Is it A?</think>\n{said}", thinking=True, truncated=False, legacy=False) == chosen


@pytest.mark.parametrize("loop", ["\\text {", "\\boxed {", "option  ", "choice \n", "Answer: "])
def test_a_loop_behind_the_answers_colon_is_read_in_one_pass(loop: str) -> None:
    """White space that two parts of the pattern could take doubled the time with each turn."""
    start = time.process_time()
    assert letter("Answer: " + loop * 10_000 + "5", thinking=False, truncated=True, legacy=False) is None
    assert letter("Answer: " + loop + "B", thinking=False, truncated=True, legacy=False) == "B"
    assert time.process_time() - start < 2


def test_what_was_thought_or_cut_off_is_no_answer_but_for_the_legacy_scorer() -> None:
    thought = "I think Answer: B, but"
    assert letter(thought, thinking=True, truncated=True, legacy=False) is None
    assert letter(thought, thinking=True, truncated=True, legacy=True) == "B"
    assert letter("x</think> The answer is B, for", thinking=True, truncated=True, legacy=False) is None
    assert letter("x</think> Answer: B\n\nFor", thinking=True, truncated=True, legacy=False) == "B"


@pytest.mark.parametrize(
    ("text", "scorer", "right"),
    [
        ("A?</think>Answer: C", "final", True),
        ("A?</think>Answer: B", "final", False),
        ("A?</think>The answer is C", "aisbench", False),  # AISBench reads `Answer: X` alone
        ("Answer: C and on", "aisbench", True),  # thinking that never ended is read there
        ("Answer: C and on", "final", False),
    ],
)
def test_a_letter_is_right_or_wrong_by_the_scorer(text: str, scorer: str, right: bool) -> None:
    said = {"text": text, "finish_reason": "stop", "thinking": True, "gold": "C"}
    assert GPQA.score(said, Metric(scorer=scorer)).correct is right
    assert GPQA.score(said | {"finish_reason": "not_finite"}, Metric(scorer=scorer)).correct is None
