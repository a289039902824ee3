"""What a scorer finds in one completion or set of alternatives."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """`correct` is None where there is nothing to be right or wrong: of windows of text, and where `unscored` says why."""

    extracted: str | None = None
    correct: bool | None = None
    unscored: str | None = None


NOT_FINITE = Verdict(unscored="the model's logits are not finite")
