"""The real benchmarks' rows become items; their gold answers score 100 % and wrong ones nothing."""

from pathlib import Path

import pytest
from ptqflow.artifacts.datasets import load_rows
from ptqflow.evaluation.answers import equal, extract, last_boxed, mathematically_equal
from ptqflow.evaluation.benchmark import load_items
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
                assert item.prompt.endswith("\\boxed{}.")
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


def test_math_500_gold_scores_itself_through_parsing_and_wrong_ones_do_not(data_root: Path) -> None:
    """All 500 by the whole path; 100 by parsing alone, without the fast path; a constant never."""
    found = items(data_root, "math-500")
    assert all(equal(extract(f"so </think> $\\boxed{{{item.gold}}}$"), item.gold) for item in found)
    assert all(mathematically_equal(item.gold, item.gold) for item in found[:100])
    assert not any(equal("987654", item.gold) for item in found)


def test_math_500_solutions_box_their_gold(data_root: Path) -> None:
    rows = load_rows(Source(path=str(data_root / "MATH-500"), split="test"))
    assert sum(equal(last_boxed(row["solution"]), row["answer"]) for row in rows) == len(rows)
