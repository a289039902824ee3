"""Multiple choice in JSONL: {"id", "question", "choices": [...], "answer": index of the right choice}."""

from ptqflow.evaluation.items import Benchmark, ChoiceItem, Row
from ptqflow.evaluation.scoring.choices import score as score


def item(row: Row, index: int) -> ChoiceItem:
    """`Question: ...` / `Answer:` and each choice after a space."""
    if not isinstance(row["choices"], list):
        raise TypeError("choices are no list")
    choices = tuple(f" {choice}" for choice in row["choices"])
    return ChoiceItem(str(row["id"]), (f"Question: {row['question']}\nAnswer:",), choices, row["answer"])


BENCHMARK = Benchmark("choices")
