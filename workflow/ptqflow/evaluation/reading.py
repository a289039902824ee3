r"""What a final answer in the one spelling says, as a value of one of the kinds that `equality` compares."""

import re
from dataclasses import dataclass
from functools import cache

from ptqflow.evaluation import units
from ptqflow.evaluation.answers import NUMERALS
from ptqflow.evaluation.expressions import Unreadable, parsed
from ptqflow.evaluation.notation import ROW, closing, split, unwrapped
from ptqflow.evaluation.reals import LINE, Reals, inequality, interval, without


@dataclass(frozen=True)
class Scalar:
    """A number or expression; `unit` is canonical ("" without one, "%" for percent)."""

    text: str
    unit: str = ""


@dataclass(frozen=True)
class Based:
    """Digits in a base other than ten."""

    digits: str
    base: int


@dataclass(frozen=True)
class Words:
    """Words, or what cannot be read otherwise: equal in the one spelling only."""

    text: str


@dataclass(frozen=True)
class Several:
    """A `list` (bare), a `set` in braces, a `tuple` in brackets or of named values."""

    kind: str
    items: tuple["Value", ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple["Value", ...], ...]


@dataclass(frozen=True)
class Equation:
    """left = right, of which one side minus the other is known up to a factor."""

    left: str
    right: str


@dataclass(frozen=True)
class Named:
    """A value with the name it was given: x = 5, f(x) = 2x."""

    name: str
    value: "Value"


Value = Scalar | Based | Words | Several | Matrix | Reals | Equation | Named

_NAME = r"(?:[a-zA-Z]|\\[a-z]+)(?:_\{?\w+\}?)?'?(?:\s*\(\s*\w\s*\))?"
# What stands before an equals sign without being part of an equation: (x, y), \text{Area}, \angle A, AB, P(A).
_LABEL = re.compile(
    r"\(\s*\\?\w+\s*(?:,\s*\\?\w+\s*)+\)|\\text\s*\{[^{}]*\}|m?\s*\\angle\s*[A-Z]+|\|?[A-Z]{2,3}\|?|\\overline\s*\{[A-Z]+\}|[PE]\([^=]*\)"
)
_BASES = {**{name: base for base, name in enumerate(NUMERALS) if base > 1}, "sixteen": 16}
_INTRODUCED = re.compile(
    r"^(?:so|thus|hence|therefore|then)?,?\s*(?:(?:the|our|its|my|final|correct|required|desired|total|smallest|largest|minimum|maximum)\s+)*"
    r"(?:answer|value|result|solution|solutions|answers|values|probability|sum|area|total|number|option|choice|set|interval|domain|range)"
    r"(?:\s+(?:of|to)(?:\s+\w+){1,4}?)?\s*(?:is|are|equals|:|=)+\s*:?\s*",
    re.IGNORECASE,
)
_LED = re.compile(
    r"^(?:(?:so|thus|hence|therefore|then),?\s+|there\s+(?:are|is)\s+|we\s+(?:get|have|find)\s+|it\s+is\s+)+", re.IGNORECASE
)
_ALL = re.compile(r"^(?:all\s+real(?:s|\s+numbers?)?|\\mathbb\s*\{?\s*R\s*\}?|R)$", re.IGNORECASE)


@cache
def read(text: str) -> Value:
    """The value that a text in the one spelling stands for."""
    text = _undressed(text)
    for reader in (_matrix, _choice, _reals, _several, _bracketed, _equation, _plus_minus, _based, _word, _scalar):
        found = reader(text)
        if found is not None:
            return found
    return _words(text)


def _undressed(text: str) -> str:
    text = unwrapped(text)
    plain = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).strip()
    for introduction in (_LED, _INTRODUCED):
        if (match := introduction.match(plain)) and match.end() < len(plain):
            text = plain = unwrapped(plain[match.end() :])
    return text


def _words(text: str) -> Value:
    plain = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).replace("{", "").replace("}", "")
    if re.search(r"[a-zA-Z]{2}", re.sub(r"\\[a-zA-Z]+", "", plain)) and not re.search(r"[\d\\^_=+]", plain):
        plain = re.sub(r"^(?:an?|the)\s+|[().,;'\"!]", "", plain.strip().casefold())
        return Words(re.sub(r"[\s-]+", " ", plain).strip())
    return Words(re.sub(r"\s+", "", plain))


def _choice(text: str) -> Words | None:
    """The letter of a multiple choice: \\text{(C)}, (C), C. ellipse."""
    plain = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip()
    if match := re.fullmatch(r"\(\s*([A-Z])\s*\)|([A-Z])[.):]|\(\s*([A-Z])\s*\)\s*[^()]+|([A-Z])[.):]\s+[^()]+", plain):
        return Words("choice " + next(group for group in match.groups() if group))
    if match := re.fullmatch(r"(?i:option|choice|answer)\s+\(?([A-Z])\)?", plain):
        return Words("choice " + match[1])
    return None


def _matrix(text: str) -> Matrix | None:
    match = re.fullmatch(
        r"(.*?)\s*(?:\\cdot|\\times)?\s*[(\[]?\s*\\begin\{(?:[pbB]?matrix|smallmatrix|array|psmallmatrix|bsmallmatrix)\}"
        r"(?:\{[clr|\s]*\})?(.*)\\end\{\w+\}\s*[)\]]?",
        text,
    )
    if not match or "\\begin" in match[2]:
        return None
    rows = [row for row in match[2].split(ROW) if row.strip()]
    name = re.fullmatch(rf"(?:{_NAME}|\\text\{{\w+\}}|\\vec\s*\{{\w\}})\s*=\s*(.*)", match[1])
    factor = name[1] if name else match[1]
    entries = [[cell.strip() for cell in row.split("&")] for row in rows]
    if factor:
        entries = [[f"({factor})({cell})" if factor != "-" else f"-({cell})" for cell in row] for row in entries]
    return Matrix(tuple(tuple(read(cell) for cell in row) for row in entries))


def _reals(text: str) -> Value | None:
    """Intervals, unions, inequalities of one variable, R, R without points; x in a set is the set."""
    plain = re.sub(r"\\text\s*\{\s*(?:all\s+)?(real(?:s|\s+numbers?)?)\s*\}", r"all \1", text).strip()
    if _ALL.match(plain):
        return LINE
    if match := re.fullmatch(rf"{_NAME}\s*\\in\b\s*(.+)", text):
        return read(match[1])
    if match := re.fullmatch(rf"\\\{{\s*{_NAME}\s*(?:\\in\s*\\mathbb\s*\{{?R\}}?)?\s*[|:]\s*(.+)\\\}}", text):
        return _reals(match[1].strip())
    pieces = split(text, r"\\setminus\b")
    if len(pieces) == 2:
        whole, out = interval(pieces[0][1]) or read(pieces[0][1]), read(pieces[1][1])
        points = out.items if isinstance(out, Several) and out.kind == "set" else (out,)
        if isinstance(whole, Reals) and all(isinstance(p, Scalar) for p in points):
            return without(whole, [p.text for p in points if isinstance(p, Scalar)])
        return None
    pieces = split(text, r"\\cup\b|\\text\s*\{\s*or\s*\}|\bor\b")
    if len(pieces) > 1:
        parts = [interval(part) or _reals(part) for _, part in pieces]
        if all(isinstance(part, Reals) for part in parts):
            return Reals(tuple(p for part in parts if isinstance(part, Reals) for p in part.parts))
        return None
    return inequality(text, _NAME) or (interval(text) if re.match(r"\[|\(.*\]$", text) or "\\infty" in text else None)


def _several(text: str) -> Value | None:
    """A bare list; of values with different names, a tuple in the order of the names."""
    pieces = split(
        text, r",\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|and\b|or\b)|[,;]|\\text\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b"
    )
    parts = [part for _, part in pieces]
    if len(parts) < 2 or not all(parts):
        return None
    items = [read(part) for part in parts]
    if all(isinstance(item, Named) for item in items):
        named = {item.name: item.value for item in items if isinstance(item, Named)}
        if len({re.split("[_']", name)[0] for name in named}) == len(items):  # x_1 and x_2 are two solutions for x
            return Several("tuple", tuple(named[name] for name in sorted(named)))
        items = [item.value for item in items if isinstance(item, Named)]
    elif isinstance(items[0], Named):  # x = 1, -2
        items[0] = items[0].value
    return Several("list", _flat(items))


def _flat(items: list[Value]) -> tuple[Value, ...]:
    """Both values of a plus-minus count."""
    return tuple(i for item in items for i in (item.items if isinstance(item, Several) and item.kind == "list" else (item,)))


def _bracketed(text: str) -> Value | None:
    if re.fullmatch(r"\\\{.*\\\}", text) and len(split(text, r"(?!)")) == 1:
        inner = text[2:-2].strip()
        return Several("set", _flat([read(part) for _, part in split(inner, "[,;]")]) if inner else ())
    if re.fullmatch(r"\\emptyset", text):
        return Several("set", ())
    if text[:1] in ("(", "[") and closing(text, 0) == len(text) - 1:
        parts = [part for _, part in split(text[1:-1], ",")]
        if len(parts) > 1 and all(parts):
            return Several("tuple" if text[0] == "(" else "brackets", tuple(read(part) for part in parts))
        if text[0] == "(" and re.fullmatch(r"\((.*)\)", text):
            return read(text[1:-1])
    return None


def _equation(text: str) -> Value | None:
    """A chain of equal numbers is its last; name = value is that; else an equation."""
    sides = [side for _, side in split(text, r"=|\\approx\b|\\equiv\b")]
    if len(sides) < 2 or not sides[-1]:
        return None
    if not sides[0]:
        return read(sides[1]) if len(sides) == 2 else None
    last = read(sides[-1])
    if "\\approx" in text:
        exact = text[: text.index("\\approx")].strip()
        return last if re.fullmatch(_NAME, exact) else read(exact)
    name = re.sub(r"\s", "", sides[0])
    if re.fullmatch(_NAME, sides[0]) and not re.search(rf"(?<![a-zA-Z\\]){re.escape(name[0])}(?![a-zA-Z])", sides[-1]):
        return last.value if isinstance(last, Named) else Named(name, last)
    if _LABEL.fullmatch(sides[0]):
        return last
    try:
        expressions = [parsed(side) for side in sides]
    except Unreadable:
        return None
    if not any(str(symbol) != "i" for expression in expressions for symbol in expression.free_symbols):
        return last
    return Equation(sides[0], sides[1]) if len(sides) == 2 else None


def _plus_minus(text: str) -> Value | None:
    if not re.search(r"\\(?:pm|mp)\b", text):
        return None
    both = [(("+", "-"), ("-", "+"))[i] for i in range(2)]
    readings = [
        read(re.sub(r"\\pm\b", plus, re.sub(r"\\mp\b", minus, text)).strip().removeprefix("+").strip()) for plus, minus in both
    ]
    return Several("list", tuple(readings))


def _based(text: str) -> Value | None:
    plain = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    match = re.fullmatch(
        r"\(?\s*([0-9A-F]+)\s*\)?\s*(?:_\s*\{?\s*\(?|\(?\s*base\s*-?)\s*(?:base\s*)?(\d+|[a-z]+)\s*\)?\s*\}?", plain
    )
    if not match:
        return None
    base = int(match[2]) if match[2].isdigit() else _BASES.get(match[2], 0)
    if not base:
        return None
    return Scalar(match[1]) if base == 10 else Based(match[1].lstrip("0") or "0", base)


def _word(text: str) -> Value | None:
    """Words that would be read as a product of their letters: numerals, yes and no."""
    plain = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip().casefold()
    if plain in NUMERALS:
        return Scalar(str(NUMERALS.index(plain)))
    return Words(plain) if plain in ("yes", "no") else None


def _scalar(text: str) -> Value | None:
    number, unit = units.parted(text)
    try:
        parsed(number)
    except Unreadable:
        return None
    return Scalar(number, unit)
