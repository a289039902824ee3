"""ARC (allenai/ai2_arc, ARC-Easy and ARC-Challenge, test), as lm-eval asks it; acc_norm."""

from ptqflow.evaluation.items import Benchmark, ChoiceItem, Row
from ptqflow.evaluation.scoring.choices import score as score


def item(row: Row, index: int) -> ChoiceItem:
    """Labels are A-E, in some rows of the original 1-4: gold is the position of the key among the row's own labels."""
    choices = tuple(f" {text}" for text in row["choices"]["text"])
    gold = list(row["choices"]["label"]).index(row["answerKey"])
    return ChoiceItem(row["id"], (f"Question: {row['question']}\nAnswer:",), choices, gold)


BENCHMARK = Benchmark("choices", defaults={"normalization": "characters"})
