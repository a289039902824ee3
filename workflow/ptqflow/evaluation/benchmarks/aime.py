"""AIME (AIME90: 2022-2024; 2024; 2025; split train): answers are integers from 0 to 999."""

from ptqflow.evaluation.items import Benchmark, GenerationItem, Row
from ptqflow.evaluation.scoring.generation import score as score


def item(row: Row, index: int) -> GenerationItem:
    """`problem` and `answer`, which one of the published copies capitalizes; the row number stands in for a missing id."""
    lower = {key.lower(): value for key, value in row.items()}
    return GenerationItem(str(lower.get("id", f"{index:02d}")), lower["problem"], str(lower["answer"]))


BENCHMARK = Benchmark("generation")
