"""The final answer of a completion, and whether it equals the gold answer.

Extraction: after the end of thinking, the last \\boxed{...}; without one, the last number. A completion that was cut off while
thinking has no answer. (`legacy` looks anywhere in the completion, as the published protocol does: a truncated chain of thought
can then score.) Equality: of strings, of plain numbers, else mathematical (lighteval's: sympy, 5 decimals, 5 s per step).
"""

import re
from functools import cache
from typing import Any

from ptqflow.evaluation.thinking import END_THINK, THINK

_BOXED = re.compile(r"\\f?boxed\s*\{")
_LAST_NUMBER = re.compile(r"(?<![\w)\]}])-?\d+(?:,\d{3})+(?:\.\d+)?|(?<![\w)\]}])-?\d*\.?\d+(?:/\d+)?|\d+")
_PLAIN_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d*)?|[+-]?\.\d+")
_DECIMALS = 5
_SECONDS = 5


def extract(text: str, *, thinking: bool = False, truncated: bool = False, legacy: bool = False) -> str | None:
    """The final answer in a completion, or None.

    `thinking`: the prompt ended inside a thinking section. `truncated`: generation ended at its limit; then only a boxed
    answer counts, for the last number would be one of the reasoning.
    """
    answer = text if legacy else _after_thinking(text, thinking)
    if answer is None:
        return None
    boxed = last_boxed(answer)
    if boxed is not None or (truncated and not legacy):
        return boxed
    numbers = _LAST_NUMBER.findall(answer.replace("\N{MINUS SIGN}", "-"))
    return numbers[-1] if numbers else None


def _after_thinking(text: str, thinking: bool) -> str | None:
    _, marker, answer = text.rpartition(END_THINK)
    return None if not marker and (thinking or THINK in text) else answer


def last_boxed(text: str) -> str | None:
    """The content of the last \\boxed{...} with balanced braces (escaped braces do not count); None without one."""
    for start in reversed([match.end() for match in _BOXED.finditer(text)]):
        depth, position = 1, start
        while position < len(text):
            character = text[position]
            if character == "\\":
                position += 1
            elif character in "{}":
                depth += 1 if character == "{" else -1
                if depth == 0:
                    return text[start:position].strip()
            position += 1
    return None


def equal(answer: str | None, gold: str) -> bool:
    """Whether an extracted answer equals the gold answer. No answer equals nothing."""
    if answer is None:
        return False
    a, b = _normalized(answer), _normalized(gold)
    if a == b:
        return True
    if _PLAIN_NUMBER.fullmatch(a) and _PLAIN_NUMBER.fullmatch(b):
        return _number(a) == _number(b)
    return bool(a) and bool(b) and mathematically_equal(a, b)


def _normalized(answer: str) -> str:
    answer = answer.strip().strip("$").strip()
    answer = answer.replace("\\!", "").replace("\\,", "").replace("\\$", "").replace("{,}", ",")
    answer = answer.replace("\N{MINUS SIGN}", "-").replace("\N{DEGREE SIGN}", r"^\circ")
    return answer.rstrip(".").strip()


def _number(text: str) -> int | float:
    digits = text.replace(",", "")
    return round(float(digits), _DECIMALS) if "." in digits else int(digits)


@cache
def _lighteval() -> Any:
    """lighteval's extraction and comparison, imported only when a comparison needs mathematics (several seconds)."""
    import torch

    with torch.no_grad():  # importing lighteval switches gradients off for the process; leaving this block restores them
        from lighteval.metrics.utils import extractive_match_utils, math_comparison
        from lighteval.tasks.requests import Doc
        from lighteval.utils.language import Language
    targets: list[Any] = [
        extractive_match_utils.LatexExtractionConfig(boxed_match_priority=0),
        extractive_match_utils.ExprExtractionConfig(),
    ]
    regexes = extractive_match_utils.get_extraction_regexes(Doc("", [], 0), targets, Language.ENGLISH)
    return extractive_match_utils.extract_target_from_pred, math_comparison.compare_gold_target, regexes


def mathematically_equal(answer: str, gold: str) -> bool:
    """Equality of two LaTeX or plain expressions by parsing and sympy: numerically within 5 decimals, or symbolically.

    Both are boxed before parsing (bare LaTeX is often misread). A step that takes longer than 5 s counts as different; the
    limit uses SIGALRM, hence the main thread.
    """
    extract_target, compare, regexes = _lighteval()
    a, b = (extract_target(f"\\boxed{{{text}}}", regexes, "first_match", "any_match", _SECONDS) for text in (answer, gold))
    return bool(compare(b, a, _DECIMALS, timeout_seconds=_SECONDS))
