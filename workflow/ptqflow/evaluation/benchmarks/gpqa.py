"""GPQA (Idavidrein/gpqa, gpqa_diamond.csv: 198 questions): graduate-level science, four options, asked as in simple-evals."""

from ptqflow.evaluation import aisbench
from ptqflow.evaluation.items import Benchmark, LetteredItem, Row
from ptqflow.evaluation.letters import letter
from ptqflow.evaluation.scoring.generation import Metric, extracted
from ptqflow.evaluation.scoring.verdict import NOT_FINITE, Verdict

_PROMPT = (
    "Answer the following multiple choice question. The last line of your response should be of the following format: 'Answer: "
    "$LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering.\n\n{problem}\n\n{options}"
)


def item(row: Row, index: int) -> LetteredItem:
    """The question with the right option first; `Record ID`, or the row's number."""
    options = (row["Correct Answer"], *(row[f"Incorrect Answer {number}"] for number in (1, 2, 3)))
    if not all(isinstance(option, str) and option.strip() for option in options):
        raise ValueError("an option is empty")
    name = str(row.get("Record ID", f"{index:03d}"))
    return LetteredItem(name, row["Question"], "A", {"paper": _PROMPT, "aisbench": _PROMPT}, options, index)


def score(row: Row, metric: Metric) -> Verdict:
    """The letter that the completion names, compared with the right one's."""
    if row["finish_reason"] == "not_finite":
        return NOT_FINITE
    chosen = extracted(row, metric, letter, aisbench.letter)
    return Verdict(chosen, chosen == row["gold"])


BENCHMARK = Benchmark("generation", published=198)
