"""HellaSwag (Rowan/hellaswag, validation), as lm-eval asks it; acc_norm."""

import re

from ptqflow.evaluation.items import Benchmark, ChoiceItem, Row
from ptqflow.evaluation.scoring.choices import score as score


def clean(text: str) -> str:
    """Remove the artifacts of WikiHow: ` [title]` becomes `. `, other brackets and double spaces go."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def item(row: Row, index: int) -> ChoiceItem:
    """`activity: ctx_a Ctx_b` and the four endings."""
    context = clean(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    endings = tuple(f" {clean(ending)}" for ending in row["endings"])
    return ChoiceItem(f"{index:05d}", (context,), endings, int(row["label"]))


BENCHMARK = Benchmark("choices", defaults={"normalization": "characters"})
