"""GSM8K (openai/gsm8k, main, test): grade-school word problems; gold is the number after ####."""

from ptqflow.evaluation.items import Benchmark, GenerationItem, Row
from ptqflow.evaluation.scoring.generation import score as score


def item(row: Row, index: int) -> GenerationItem:
    """The final number as gold: the whole rationale as gold leaves four items unscorable."""
    _, _, answer = row["answer"].rpartition("####")
    return GenerationItem(f"{index:04d}", row["question"], answer.strip().replace(",", ""))


BENCHMARK = Benchmark("generation")
