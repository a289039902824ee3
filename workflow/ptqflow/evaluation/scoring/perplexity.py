"""A window of text has a loss, and nothing to be right or wrong about."""

from collections.abc import Mapping
from typing import Any

from ptqflow.datamodel import Model
from ptqflow.evaluation.scoring.verdict import Verdict


class Metric(Model):
    """Perplexity has no keys of its own."""


def score(row: Mapping[str, Any], metric: Metric) -> Verdict:
    """Nothing to say of a row of schema GENERATIONS."""
    return Verdict()
