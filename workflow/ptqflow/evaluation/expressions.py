"""Exact equality of scalar expressions: parsed by latex2sympy2_extended (Math-Verify's parser), compared by evaluation.

Two expressions are equal when they agree at several points to more digits than the texts could tell apart; at a constant, to
hundreds of digits beyond its own size. There is no tolerance of decimals: a decimal is the rational that is written, so 0.333 is
not 1/3, and pi is not 3.14159. Nothing is simplified, so that the cost is bounded by the length of the text.
"""

import operator
import random
import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache, reduce
from typing import Any

import mpmath
import sympy

_MOST_DIGITS = 100_000  # of a number; more are told apart by their spelling alone
_POINTS = 5
_FUNCTIONS = ["exp", "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "sinh", "cosh", "tanh", "floor"]
# What a function without brackets is of: sin 2x cos x is sin(2x) cos(x).
_ARGUMENT = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc|ln|log)(?:\s*_\{\w+\})?(?:\s*\^\{\d+\})?)\s*"
    r"(\d*\s*(?:\\(?:pi|theta|alpha|beta|gamma|phi|omega|varphi)\b|[a-zA-Z](?![a-zA-Z])))(?!\s*[\^_])"
)


class Unreadable(ValueError):
    """The text is not a scalar expression, or has no value."""


class Undecided(Exception):
    """Two expressions are too large to be told apart here."""


class TooLarge(Unreadable):
    """A number beyond the digits that are computed."""


@cache
def parsed(text: str) -> Any:
    """The sympy expression of an answer in the one spelling (`notation.spelled`). Raises Unreadable."""
    if not text or re.search(r"\\text|\\cup|\\(?:le|ge|ne|in|pm|mp)\b|[<>=?&%$;]|\d\s+\d|[^\x20-\x7e]", text):
        raise Unreadable(text)
    text = re.sub(r"\\(?:overline|bar|dot)\s*\{?(\d+)\}?", r"\\overline{\1}", text)
    if re.search(r"[a-zA-Z]{4,}", re.sub(r"\\[a-zA-Z]+", " ", text)):
        raise Unreadable(text)  # a word, not a product of its letters
    text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\\circ", r"(\1\\cdot\\frac{\\pi}{180})", text)
    text = re.sub(r"(\d*)\.(\d*)\\overline\{(\d+)\}", _repeating, text)
    text = re.sub(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])|(?<![\d.])(\d+)\.(?![\d.])", _decimal, text)
    if "." in text or "," in text or "overline" in text:
        raise Unreadable(text)
    text = _ARGUMENT.sub(r"\1(\2)", re.sub(r"\\log\s*_\s*\{?e\}?", r"\\ln ", text))
    text = re.sub(
        r"(?<=\))\s*(?=[(\d])|(?<=\d)\s*(?=\()|(?<=\\pi)\s*(?=[(\d])", r"\\cdot ", text
    )  # (4)(6) would be read as 4 + 6
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    try:  # 6(3) is a product: mixed numbers are written as sums by now
        expression = latex2sympy(
            text, normalization_config=None, conversion_config=ConversionConfig(interpret_as_mixed_fractions=False)
        )
    except Exception as error:  # of many kinds: the parser's own, sympy's, antlr's
        raise Unreadable(text) from error
    if not isinstance(expression, sympy.Expr):
        raise Unreadable(text)
    return expression


def _decimal(match: re.Match[str]) -> str:
    whole, digits = (match[1] or "0", match[2]) if match[2] else (match[3], "")
    return rf"(\frac{{{int(whole + digits)}}}{{{10 ** len(digits)}}})"


def _repeating(match: re.Match[str]) -> str:
    """0.1\\overline{6} is 15/90."""
    whole, once, again = match[1] or "0", match[2], match[3]
    nines = (10 ** len(again) - 1) * 10 ** len(once)
    return rf"(\frac{{{int(whole + once + again) - int(whole + once)}}}{{{nines}}})"


def same(a: Any, b: Any) -> bool:
    """Whether two expressions are equal for all values of their symbols. Raises Unreadable where that cannot be evaluated."""
    symbols = sorted({str(s) for s in a.free_symbols | b.free_symbols} - {"i"})
    if not symbols:
        try:
            return _agree(a, b, {})
        except ZeroDivisionError:  # a pole is no value
            return False
    draw = random.Random(0)
    verdicts = []
    for point in range(_POINTS * 4):
        signs = (1,) if point < _POINTS else (1, -1)  # real branches first
        values = {s: Fraction(draw.choice(signs) * draw.randint(10**6, 10**7), draw.randint(10**6, 10**7)) for s in symbols}
        try:
            verdicts.append(_agree(a, b, values))
        except ZeroDivisionError:
            continue  # a pole of one of them
        if not verdicts[-1]:
            return False
        if len(verdicts) >= 2 * _POINTS:
            break
    return len(verdicts) >= _POINTS


def proportional(a: Any, b: Any) -> bool:
    """Whether b is a constant other than zero times a, as the two sides of one equation are."""
    symbols = sorted({str(s) for s in a.free_symbols} - {"i"})
    draw = random.Random(1)
    with mpmath.workdps(200):
        first = {s: Fraction(draw.randint(10**6, 10**7), draw.randint(10**6, 10**7)) for s in symbols}
        at_a, at_b = _value(a, first), _value(b, first)
        if not at_a or not at_b:
            return False
        for _ in range(2 * _POINTS):
            point = {s: Fraction(draw.randint(10**6, 10**7), draw.randint(10**6, 10**7)) for s in symbols}
            left, right = (_value(a, point) or 0) * at_b, (_value(b, point) or 0) * at_a
            if abs(left - right) > max(abs(left), abs(right), 1) * mpmath.mpf(10) ** -100:
                return False
    return True


def _agree(a: Any, b: Any, point: dict[str, Any]) -> bool:
    needed = None  # digits, known after a first look
    while True:
        digits = needed or 60
        with mpmath.workdps(digits):
            left, right = _value(a, point), _value(b, point)
            if left is None and right is None:
                raise Undecided(f"{a} and {b} have more than {_MOST_DIGITS} digits")
            if left is None or right is None:
                return False
            if not (mpmath.isfinite(left) and mpmath.isfinite(right)):
                return bool(left == right)
            size = max(abs(left), abs(right))
            if abs(left - right) > max(size, 1) * mpmath.mpf(10) ** (-digits // 2):
                return False
            if needed:
                return bool(abs(left - right) < mpmath.mpf(10) ** (-digits // 4))
            needed = 600 + 2 * abs(int(mpmath.log10(size)) if size else 0) + _written(a) + _written(b)


def _value(expression: Any, point: dict[str, Any]) -> Any:
    """Its value; None of one beyond the digits that are computed."""
    try:
        value = evaluated(expression, point)
    except TooLarge:
        return None
    return None if mpmath.isfinite(value) and abs(value) > mpmath.mpf(10) ** _MOST_DIGITS else value


@cache
def _written(expression: Any) -> int:
    return 2 * sum(len(str(number.p)) + len(str(number.q)) for number in expression.atoms(sympy.Rational))


def evaluated(node: Any, point: dict[str, Any]) -> Any:
    """The value of an expression at a point, in mpmath's present precision.

    Raises ZeroDivisionError at a pole, TooLarge beyond what is computed, Unreadable for what is no function of numbers.
    """
    if node.is_Symbol:
        if str(node) == "i":
            return mpmath.mpc(0, 1)
        return mpmath.mpf(point[str(node)].numerator) / point[str(node)].denominator
    if node.is_Rational:
        return mpmath.mpf(node.p) / node.q
    for constant, value in (
        (sympy.pi, mpmath.pi),
        (sympy.E, mpmath.e),
        (sympy.I, 1j),
        (sympy.oo, mpmath.inf),
        (-sympy.oo, -mpmath.inf),
    ):
        if node is constant:
            return +value
    values = [evaluated(child, point) for child in node.args]
    return _apply(node, values)


def _apply(node: Any, values: list[Any]) -> Any:
    if node.is_Add:
        return reduce(operator.add, values)
    if node.is_Mul:
        return reduce(operator.mul, values)
    if node.is_Pow:
        base, exponent = values
        if base == 0 and mpmath.re(exponent) < 0:
            raise ZeroDivisionError
        if abs(exponent) > 10 * _MOST_DIGITS:
            raise TooLarge
        return mpmath.power(base, exponent)
    name = type(node).__name__
    if name == "log":
        if values[0] == 0:
            raise ZeroDivisionError
        return mpmath.log(values[0]) / (mpmath.log(values[1]) if len(values) > 1 else 1)
    if name == "factorial":
        _bounded(values[0])
        return mpmath.factorial(values[0])
    if name == "binomial":
        _bounded(*values)
        return mpmath.binomial(*values)
    if name == "Mod":
        value, modulus = values
        if modulus == 0:
            raise ZeroDivisionError
        if abs(value) >= mpmath.mpf(10) ** mpmath.mp.dps:  # its last digits are not known
            raise TooLarge
        if mpmath.im(value) or mpmath.im(modulus):
            raise Unreadable(name)
        return mpmath.re(value) % mpmath.re(modulus)
    if name in ("Abs", "ceiling"):
        return abs(values[0]) if name == "Abs" else mpmath.ceil(values[0])
    if name in _FUNCTIONS:
        function: Callable[..., Any] = getattr(mpmath, name)
        _bounded(values[0])
        return function(*values)
    raise Unreadable(name)


def _bounded(*values: Any) -> None:
    if any(mpmath.isfinite(value) and abs(value) > 10 * _MOST_DIGITS for value in values):
        raise TooLarge
