"""Problems in JSONL: {"id", "question", "answer"}; the answer is a number or a LaTeX expression. Greedy by default."""

from ptqflow.evaluation.items import Benchmark, GenerationItem, Row
from ptqflow.evaluation.scoring.generation import score as score


def item(row: Row, index: int) -> GenerationItem:
    """Id, question and answer as they stand."""
    return GenerationItem(str(row["id"]), row["question"], str(row["answer"]))


BENCHMARK = Benchmark("generation", defaults={"max_new_tokens": 512, "temperature": 0.0})
