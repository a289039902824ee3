r"""Sets of real numbers as answers: (2, \infty), x > 2, [0, 9) \cup (9, 36], x \ne 9."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cmp_to_key

import mpmath

from ptqflow.evaluation.expressions import Unreadable, evaluated, parsed, same
from ptqflow.evaluation.notation import split


@dataclass(frozen=True)
class Interval:
    """Its ends as text, and whether they are left out."""

    low: str
    high: str
    open_low: bool
    open_high: bool


@dataclass(frozen=True)
class Reals:
    """A union of intervals."""

    parts: tuple[Interval, ...]


INFINITY = {"-\\infty": -mpmath.inf, "\\infty": mpmath.inf}
LINE = Reals((Interval("-\\infty", "\\infty", True, True),))
_RELATION = r"\\le\b|\\ge\b|\\ne\b|<|>"
_MIRRORED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\ne": "\\ne"}


def interval(text: str) -> Reals | None:
    """An interval in brackets; None where the text is none."""
    if not re.fullmatch(r"[(\[].*[)\]]", text):
        return None
    ends = [re.sub(r"^\+?\s*(-?)\s*\\infty$", r"\1\\infty", end) for _, end in split(text[1:-1], ",")]
    if len(ends) != 2 or not all(ends):
        return None
    low, high = ends
    return Reals((Interval(low, high, text[0] == "(" or low in INFINITY, text[-1] == ")" or high in INFINITY),))


def inequality(text: str, name: str) -> Reals | None:
    """The solutions of a < x <= b, x > a or x != a, for a variable that matches the pattern `name`; else None."""
    pieces = split(text, _RELATION)
    signs, sides = [sign for sign, _ in pieces[1:]], [side for _, side in pieces]
    if len(sides) not in (2, 3) or not all(sides):
        return None
    if (len(sides) == 2 and not re.fullmatch(name, sides[0])) or any(sign in (">", "\\ge") for sign in signs[1:]):
        sides, signs = sides[::-1], [_MIRRORED[sign] for sign in signs[::-1]]
    if len(sides) == 3:
        if not re.fullmatch(name, sides[1]) or not set(signs) <= {"<", "\\le"}:
            return None
        return Reals((Interval(sides[0], sides[2], signs[0] == "<", signs[1] == "<"),))
    if not re.fullmatch(name, sides[0]):
        return None
    if signs[0] == "\\ne":
        return without(LINE, [sides[1]])
    is_open = signs[0] in "<>"
    below = signs[0] in ("<", "\\le")
    return Reals((Interval("-\\infty", sides[1], True, is_open) if below else Interval(sides[1], "\\infty", is_open, True),))


def _value(end: str) -> mpmath.mpf:
    """Raises Unreadable for an end that is not a real number."""
    if end in INFINITY:
        return INFINITY[end]
    expression = parsed(end)
    if expression.free_symbols:
        raise Unreadable(end)
    try:
        with mpmath.workdps(100):
            value = evaluated(expression, {})
    except ZeroDivisionError as error:
        raise Unreadable(end) from error
    if mpmath.im(value):
        raise Unreadable(end)
    return mpmath.re(value)


def _compare(a: str, b: str) -> int:
    if (a in INFINITY or b in INFINITY) and a == b:
        return 0
    left, right = _value(a), _value(b)
    if a not in INFINITY and b not in INFINITY and same(parsed(a), parsed(b)):
        return 0
    return -1 if left < right else 1


def without(whole: Reals, points: list[str]) -> Reals | None:
    """Intervals cut at points within them; None where an end is not a number."""
    parts = list(whole.parts)
    try:
        for point in points:
            cut = []
            for part in parts:
                if _compare(part.low, point) < 0 < _compare(part.high, point):
                    cut += [replace(part, high=point, open_high=True), replace(part, low=point, open_low=True)]
                else:
                    low, high = _compare(part.low, point) == 0, _compare(part.high, point) == 0
                    cut.append(replace(part, open_low=part.open_low or low, open_high=part.open_high or high))
            parts = cut
    except Unreadable:
        return None
    return Reals(tuple(parts))


def _merged(reals: Reals) -> list[Interval]:
    """Disjoint intervals from left to right."""

    def from_left(a: Interval, b: Interval) -> int:
        return _compare(a.low, b.low) or a.open_low - b.open_low

    found: list[Interval] = []
    for part in sorted(reals.parts, key=cmp_to_key(from_left)):
        if found:
            last, gap = found[-1], _compare(part.low, found[-1].high)
            if gap < 0 or (gap == 0 and not (part.open_low and last.open_high)):
                further = _compare(part.high, last.high)
                if further > 0:
                    found[-1] = replace(last, high=part.high, open_high=part.open_high)
                elif further == 0:
                    found[-1] = replace(last, open_high=last.open_high and part.open_high)
                continue
        found.append(part)
    return found


def same_reals(a: Reals, b: Reals) -> bool:
    """Whether two unions hold the same numbers; ends with letters are compared one by one as they stand."""
    try:
        return _same_parts(_merged(a), _merged(b), _compare)
    except Unreadable:
        return _same_parts(list(a.parts), list(b.parts), _literally)


def _same_parts(left: list[Interval], right: list[Interval], compare: Callable[[str, str], int]) -> bool:
    return len(left) == len(right) and all(
        p.open_low == q.open_low and p.open_high == q.open_high and compare(p.low, q.low) == 0 and compare(p.high, q.high) == 0
        for p, q in zip(left, right, strict=True)
    )


def _literally(a: str, b: str) -> int:
    if a == b:
        return 0
    try:
        return 0 if a not in INFINITY and b not in INFINITY and same(parsed(a), parsed(b)) else 1
    except Unreadable:
        return 1
