"""The final answer of a completion, compared with gold as mathematics."""

from collections.abc import Mapping
from typing import Any, Literal

from ptqflow.datamodel import Model
from ptqflow.evaluation.answers import extract
from ptqflow.evaluation.grading import grade
from ptqflow.evaluation.scoring.verdict import NOT_FINITE, Verdict


class Metric(Model):
    """`scorer`: `final` reads the answer after the end of thinking only, `legacy` anywhere, as the published protocol does."""

    scorer: Literal["final", "legacy"] = "final"


def score(row: Mapping[str, Any], metric: Metric) -> Verdict:
    """The verdict on one completion, a row of schema GENERATIONS."""
    if row["finish_reason"] == "not_finite":
        return NOT_FINITE
    extracted = extract(
        row["text"],
        thinking=row["thinking"],
        truncated=row["finish_reason"] == "length",
        legacy=metric.scorer == "legacy",
    )
    return Verdict(extracted, *grade(extracted, row["gold"]))
