"""The alternative of the highest log-likelihood, by itself or divided by its length."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from ptqflow.datamodel import Model
from ptqflow.evaluation.scoring.verdict import NOT_FINITE, Verdict


class Metric(Model):
    """`normalization` divides log-likelihoods by the length of the choice in characters (lm-eval's acc_norm), bytes or tokens."""

    normalization: Literal["none", "characters", "bytes", "tokens"] = "none"


def score(row: Mapping[str, Any], metric: Metric) -> Verdict:
    """The verdict on one item, a row of schema GENERATIONS; `extracted` and `gold` are indices of alternatives.

    A single alternative is "0" when greedy decoding produces it, else None. A model whose log-likelihoods are no numbers, or
    all minus infinity, prefers nothing: the largest would be the first, right now and then.
    """
    logprobs = row["choice_logprobs"]
    if any(map(math.isnan, logprobs)) or not any(map(math.isfinite, logprobs)):
        return NOT_FINITE
    if len(logprobs) == 1:
        extracted = "0" if row["choice_greedy"][0] else None
    else:
        lengths = [1] * len(logprobs) if metric.normalization == "none" else row[f"choice_{metric.normalization}"]
        extracted = str(max(range(len(logprobs)), key=lambda i: logprobs[i] / max(1, lengths[i])))
    return Verdict(extracted, extracted == row["gold"])
