"""GSM8K (openai/gsm8k, main, test): grade-school word problems; gold is the number after ####."""

from ptqflow.evaluation.items import Benchmark, ReasoningItem, Row


def item(row: Row, index: int) -> ReasoningItem:
    """The final number as gold: the whole rationale as gold leaves four items unscorable."""
    _, _, answer = row["answer"].rpartition("####")
    return ReasoningItem(f"{index:04d}", row["question"], answer.strip().replace(",", ""))


BENCHMARK = Benchmark("reasoning", item)
