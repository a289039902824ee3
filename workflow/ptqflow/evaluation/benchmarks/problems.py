"""Problems in JSONL: {"id", "question", "answer"}; the answer is a number or a LaTeX expression. Greedy by default."""

from ptqflow.evaluation.items import Benchmark, ReasoningItem, Row


def item(row: Row, index: int) -> ReasoningItem:
    """Id, question and answer as they stand."""
    return ReasoningItem(str(row["id"]), row["question"], str(row["answer"]))


BENCHMARK = Benchmark("reasoning", item, {"max_new_tokens": 512, "temperature": 0.0})
