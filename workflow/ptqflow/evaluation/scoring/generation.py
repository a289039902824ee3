"""The final answer of a completion, compared with gold as mathematics."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from ptqflow.datamodel import Model
from ptqflow.evaluation import aisbench
from ptqflow.evaluation.answers import extract
from ptqflow.evaluation.grading import grade
from ptqflow.evaluation.scoring.verdict import NOT_FINITE, Verdict


class Metric(Model):
    """`scorer`: `final` reads the answer after the end of thinking only, `legacy` anywhere, as the published protocol does;
    `aisbench` reads what AISBench's post-processors read.
    """

    scorer: Literal["final", "legacy", "aisbench"] = "final"


def extracted(
    row: Mapping[str, Any], metric: Metric, read: Callable[..., str | None], theirs: Callable[[str], str | None]
) -> str | None:
    """The answer in a completion, a row of schema GENERATIONS: by `read`, or by `theirs` for AISBench's scorer."""
    if metric.scorer == "aisbench":
        return theirs(aisbench.spoken(row["text"]))
    cut = row["finish_reason"] == "length"
    return read(row["text"], thinking=row["thinking"], truncated=cut, legacy=metric.scorer == "legacy")


def score(row: Mapping[str, Any], metric: Metric, theirs: Callable[[str], str | None] = aisbench.formula) -> Verdict:
    """The verdict on one completion, a row of schema GENERATIONS."""
    if row["finish_reason"] == "not_finite":
        return NOT_FINITE
    answer = extracted(row, metric, extract, theirs)
    return Verdict(answer, *grade(answer, row["gold"]))
