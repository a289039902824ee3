"""MATH-500 (HuggingFaceH4/MATH-500, test): competition mathematics; gold is a LaTeX expression."""

from ptqflow.evaluation.items import Benchmark, GenerationItem, Row
from ptqflow.evaluation.scoring.generation import score as score


def item(row: Row, index: int) -> GenerationItem:
    """The `answer` column, which is what the solution boxes."""
    return GenerationItem(row["unique_id"].removeprefix("test/").removesuffix(".json"), row["problem"], row["answer"])


BENCHMARK = Benchmark("generation")
