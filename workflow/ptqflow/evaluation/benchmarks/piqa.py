"""PIQA (ybisk/piqa or baber/piqa, validation), as lm-eval asks it; acc_norm."""

from ptqflow.evaluation.items import Benchmark, ChoiceItem, Row
from ptqflow.evaluation.scoring.choices import score as score


def item(row: Row, index: int) -> ChoiceItem:
    """`Question: goal` / `Answer:` and the two solutions."""
    context = f"Question: {row['goal']}\nAnswer:"
    return ChoiceItem(f"{index:04d}", (context,), (f" {row['sol1']}", f" {row['sol2']}"), int(row["label"]))


BENCHMARK = Benchmark("choices", defaults={"normalization": "characters"})
