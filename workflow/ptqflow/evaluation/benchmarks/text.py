"""Plain text in JSONL: {"id", "text"}; perplexity over the passages joined by blank lines."""

from ptqflow.evaluation.items import Benchmark, Row, TextItem
from ptqflow.evaluation.scoring.perplexity import score as score


def item(row: Row, index: int) -> TextItem:
    """Id and text as they stand."""
    return TextItem(str(row["id"]), row["text"])


BENCHMARK = Benchmark("perplexity")
