"""WikiText-2 (Salesforce/wikitext, wikitext-2-raw-v1, test): perplexity over windows of 2048 tokens, rows unfiltered."""

from ptqflow.evaluation.items import Benchmark, Row, TextItem
from ptqflow.evaluation.scoring.perplexity import score as score


def item(row: Row, index: int) -> TextItem:
    """A line of the corpus, empty ones included."""
    return TextItem(f"{index:04d}", row["text"])


BENCHMARK = Benchmark("perplexity")
