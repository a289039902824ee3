"""WinoGrande (allenai/winogrande, xl, validation) by partial evaluation (Trinh and Le, 2018); acc.

Each filling of the blank gives a context; what is scored is the rest of the sentence, the same for both.
"""

from ptqflow.evaluation.items import Benchmark, ChoiceItem, Row
from ptqflow.evaluation.scoring.choices import score as score


def item(row: Row, index: int) -> ChoiceItem:
    """Two contexts that end with an option, one continuation: the text after the blank."""
    before, blank, after = row["sentence"].partition("_")
    if not blank:
        raise ValueError("the sentence has no blank")
    contexts = (before + row["option1"], before + row["option2"])
    return ChoiceItem(f"{index:04d}", contexts, (f" {after.strip()}",), int(row["answer"]) - 1)


BENCHMARK = Benchmark("choices")
