"""The real benchmarks' rows become items; their gold answers score 100 % and wrong ones nothing."""

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from ptqflow.artifacts.datasets import load_rows
from ptqflow.evaluation.answers import extract, last_boxed
from ptqflow.evaluation.benchmark import load_items
from ptqflow.evaluation.equality import equal
from ptqflow.evaluation.items import ChoiceItem, GenerationItem, TextItem
from ptqflow.sources import Source

pytestmark = pytest.mark.data

BENCHMARKS = {
    "gsm8k": ("gsm8k", "gsm8k", "main", "test", 1319),
    "math-500": ("math-500", "MATH-500", None, "test", 500),
    "aime-90": ("aime", "AIME90", None, "train", 89),
    "aime-2024": ("aime", "aime_2024", None, "train", 30),
    "aime-2025": ("aime", "aime_2025", None, "train", 30),
    "arc-easy": ("arc", "ai2_arc", "ARC-Easy", "test", 2376),
    "arc-challenge": ("arc", "ai2_arc", "ARC-Challenge", "test", 1172),
    "hellaswag": ("hellaswag", "hellaswag", None, "validation", 1000),
    "piqa": ("piqa", "piqa", None, "validation", 1838),
    "winogrande": ("winogrande", "winogrande", None, "validation", 1267),
    "lambada": ("lambada", "lambada_openai", None, "test", 5153),
    "wikitext": ("wikitext", "wikitext", "wikitext-2-raw-v1", "test", 2892),
}


def items(root: Path, name: str) -> list:
    benchmark, folder, subset, split, _ = BENCHMARKS[name]
    return load_items(name, benchmark, Source(path=str(root / folder), subset=subset, split=split))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_row_becomes_a_well_formed_item(data_root: Path, name: str) -> None:
    found = items(data_root, name)
    assert len(found) == BENCHMARKS[name][-1]
    for item in found:
        match item:
            case GenerationItem():
                assert item.problem.strip()
                assert item.gold.strip()
                assert item.asked("paper", 0).prompt.endswith("\\boxed{}.")
            case ChoiceItem():
                assert 0 <= item.gold < len(item.alternatives)
                assert all(c.startswith(" ") for c in item.continuations)
                assert all(context.strip() for context in item.contexts)
            case TextItem():
                assert isinstance(item.text, str)


def test_known_items_read_as_lm_eval_prints_them(data_root: Path) -> None:
    piqa = items(data_root, "piqa")[0]
    assert piqa.contexts[0].startswith("Question: ")
    assert piqa.contexts[0].endswith("\nAnswer:")
    winogrande = items(data_root, "winogrande")[0]
    assert winogrande.contexts[0] == "Sarah was a much better surgeon than Maria so Sarah"
    assert winogrande.contexts[1].endswith("so Maria")
    assert winogrande.continuations == (" always got the easier cases.",)
    lambada = items(data_root, "lambada")[0]
    assert " " not in lambada.continuations[0].strip()
    assert not any("[" in context for item in items(data_root, "hellaswag") for context in (*item.contexts, *item.continuations))


@pytest.mark.parametrize("name", ["gsm8k", "aime-90", "aime-2024", "aime-2025"])
def test_number_gold_scores_itself_and_nothing_else(data_root: Path, name: str) -> None:
    for item in items(data_root, name):
        assert equal(extract(f"</think> It is \\boxed{{{item.gold}}}.", thinking=True), item.gold)
        assert equal(extract(f"</think> The final answer is {item.gold}.", thinking=True), item.gold)
        assert not equal("123456789.5", item.gold)


def spellings(gold: str) -> Iterator[str]:
    """A gold answer as others write it."""
    yield from (gold, f"${gold}$", rf"\({gold}\)", f" {gold} .", f"{{{gold}}}", rf"\displaystyle {gold}", rf"\boxed{{{gold}}}")
    yield re.sub(r"\\d?frac", r"\\dfrac", gold)
    yield re.sub(r"\\d?frac", r"\\tfrac", gold)
    yield gold.replace("\\left", "").replace("\\right", "")
    yield gold.replace(" ", r"\,")
    yield gold.replace(" ", "~")
    yield gold.replace("\\pi", "π").replace("\\infty", "∞").replace("\\cup", "∪").replace("-", "−")
    yield re.sub(r"\\sqrt\{?(\w+)\}?", r"\\sqrt{ \1 }", gold)
    yield re.sub(r"\^(\d)", r"^{\1}", gold)
    yield gold.replace("pmatrix", "bmatrix")
    yield re.sub(r"\\(?:text|mbox)\{([^}]*)\}", r"\\mathrm{\1}", gold)
    yield re.sub(r"\^\\circ$", "°", gold)
    yield re.sub(r"\^\\circ$", r"\\text{ degrees}", gold)
    if "[" not in gold and "]" not in gold and "\\left" not in gold:
        yield gold.replace("(", r"\left(").replace(")", r"\right)")
    if match := re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", gold):
        sign, p, q = match[1], int(match[2]), int(match[3])
        yield from (f"{sign}{p}/{q}", rf"\frac{{{sign}{2 * p}}}{{{2 * q}}}", rf"{sign}{p // q}\frac{{{p % q}}}{{{q}}}")
        if 10**9 * p % q == 0:
            yield f"{sign}{Decimal(p) / q:f}"
    if re.fullmatch(r"-?\d+", gold):
        yield from (f"{int(gold):,}".replace(",", mark) for mark in (",", "{,}", r"\,", r",\!", "\xa0"))
        yield from (rf"\text{{The answer is }} {gold}", f"x = {gold}", f"{gold}.00", rf"{gold}\text{{ cm}}^2", rf"\$ {gold}")
        yield from (rf"{gold} \times 10^0", rf"{gold}\%", rf"\frac{{{3 * int(gold)}}}{{3}}", rf"\mathbf{{{gold}}}")
    if match := re.fullmatch(r"(\d+)_\{?(\d)\}?", gold):
        yield from (rf"{match[1]}_{{{match[2]}}}", rf"({match[1]})_{match[2]}", rf"{match[1]} \text{{ base }} {match[2]}")


def test_math_500_gold_is_right_in_every_spelling(data_root: Path) -> None:
    for item in items(data_root, "math-500"):
        for spelling in spellings(item.gold):
            assert equal(extract(f"so </think> $\\boxed{{{spelling}}}$", thinking=True), item.gold), (item.gold, spelling)


def test_math_500_gold_with_a_digit_more_is_wrong(data_root: Path) -> None:
    for item in items(data_root, "math-500"):
        assert not equal("987654", item.gold)
        for match in re.finditer(r"(?<![\^\d.])(?<!\^\{)[1-9]\d*", item.gold):
            other = f"{item.gold[: match.start()]}{{{match[0]}1}}{item.gold[match.end() :]}"
            assert not equal(other, item.gold), (item.gold, other)


def test_math_500_solutions_box_their_gold(data_root: Path) -> None:
    rows = load_rows(Source(path=str(data_root / "MATH-500"), split="test"))
    assert sum(equal(last_boxed(row["solution"]), row["answer"]) for row in rows) == len(rows)
