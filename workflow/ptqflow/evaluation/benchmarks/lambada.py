"""LAMBADA (EleutherAI/lambada_openai, default, test): is the last word what greedy decoding produces?"""

from ptqflow.evaluation.items import Benchmark, ChoiceItem, Row
from ptqflow.evaluation.scoring.choices import score as score


def item(row: Row, index: int) -> ChoiceItem:
    """The text is split at its last space; one alternative, so the score is the greedy hit. In an example two spaces join
    them, as in lm-eval, which puts one before every answer, and whose words of LAMBADA begin with one.
    """
    context, _, word = row["text"].rpartition(" ")
    return ChoiceItem(f"{index:04d}", (context,), (f" {word}",), 0, joint=" ")


BENCHMARK = Benchmark("choices")
