"""MATH-500 (HuggingFaceH4/MATH-500, test): competition mathematics; gold is a LaTeX expression."""

from ptqflow.evaluation.items import Benchmark, ReasoningItem, Row


def item(row: Row, index: int) -> ReasoningItem:
    """The `answer` column, which is what the solution boxes."""
    return ReasoningItem(row["unique_id"].removeprefix("test/").removesuffix(".json"), row["problem"], row["answer"])


BENCHMARK = Benchmark("reasoning", item)
