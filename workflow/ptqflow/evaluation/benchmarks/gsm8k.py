"""GSM8K (openai/gsm8k, main, test): grade-school word problems; gold is the number after ####."""

from ptqflow.evaluation import aisbench
from ptqflow.evaluation.items import REASONING, Benchmark, GenerationItem, Row
from ptqflow.evaluation.scoring import generation
from ptqflow.evaluation.scoring.generation import Metric
from ptqflow.evaluation.scoring.verdict import Verdict

_PROMPTS = REASONING | {
    "aisbench": 'Answer the following question.The last line of the response should follow this format: "answer:$ANSWER" '
    "(without quotes), where ANSWER is a number. Let's think step by step.\n\nQuestion: {problem}"
}


def item(row: Row, index: int) -> GenerationItem:
    """The final number as gold: the whole rationale as gold leaves four items unscorable."""
    _, _, answer = row["answer"].rpartition("####")
    return GenerationItem(f"{index:04d}", row["question"], answer.strip().replace(",", ""), _PROMPTS)


def score(row: Row, metric: Metric) -> Verdict:
    """The final answer as a number; AISBench reads the last number, not a formula."""
    return generation.score(row, metric, aisbench.number)


BENCHMARK = Benchmark("generation")
