r"""The final answer of a completion: after the end of thinking, what is boxed last; without a box, what is said to be the answer,
else the last number.

Boxes that only "and", "or" or a comma separate are one answer of several values. A completion that was cut off while thinking
has no answer. (`legacy` looks anywhere in the completion, as the published protocol does: a truncated chain of thought can then
score.)
Whether an answer is right is decided by `equality`.
"""

import re
from dataclasses import dataclass

from ptqflow.chat import END_THINK, THINK
from ptqflow.evaluation.notation import split

_BOX = r"(?:f?boxed|fbox|framebox)(?![a-zA-Z])"
_BOX_OR_BRACE = re.compile(rf"(?P<box>\\{_BOX}\s*(?P<open>\{{)?)|\\(?!\\?{_BOX})(?:.|\n)|[{{}}]")
_END_OF_FORMULA = re.compile(r"\$|\n|\\[)\]]")
_UNBRACED = re.compile(r"-?\d[\d,.]*\d|-?\d|\\[a-zA-Z]+(?:\{[^{}]*\})*|[^\s\\$]")
_BETWEEN = re.compile(
    r"(?:\$|\\[()\[\]]|\\quad|\\text\s*\{|\}|[,;]|\band\b|\bor\b|[a-zA-Z](?:_\{?\d\}?)?\s*=|\s)*", re.IGNORECASE
)
_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_NOT_ANSWERS = re.compile(
    rf"\b{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{4}}\b|\b\d{{1,2}}\s+{_MONTH}\s+\d{{4}}\b|(?:\(\s*+)?\\?p?mod\s*+\{{?\s*+\d+\s*\}}?\)?"
)
_THOUSANDS = r"(?:,|\{,\}|\\,|\\!|,\\!|\xa0|\u202f|\u2009)"
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}])-(?=\.?\d)|(?<=[=:] )- (?=\.?\d)|(?<![\w.^])(?<!\^\{)(?<!_\{))"
    rf"(?:\d{{1,3}}(?:{_THOUSANDS}\d{{3}})+(?:\.\d+)?(?!\d)|\d+ \d+/\d+|\d*\.?\d+(?:/\d+)?)"
    r"(?:\s*(?:\\times|\\cdot|×|\*)\s*10\^\{?-?\d+\}?|\^\{?-?\d+\}?|_\{?\d+\}?)?(?:\s?\\?%)?"
)
_STATED = re.compile(r"(?:answers?|result|option|choice)\b\**\s*(?:is|are|:|=)\**\s*:?\s*|####\s*", re.IGNORECASE)
_CLAUSE_END = re.compile(r"\n|\.(?=\s|$|\*)|[!?](?=\s+[A-Z]|\s*$|\*)", re.MULTILINE)
_MATH = re.compile(
    r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\$)([^$\n]+?)(?<!\\)\$(?!\d)|\\\(((?:(?!\\\().)+?)\\\)|\\\[((?:(?!\\\[).)+?)\\\]", re.DOTALL
)
NUMERALS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
           "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]  # fmt: skip
_NUMERAL = re.compile(rf"\b(?:{'|'.join(NUMERALS)})\b", re.IGNORECASE)
# "correct" or "what we wanted": said about an answer. It is none unless a numeral, yes or no comes first.
_REMARK = re.compile(rf"(?!(?:yes|no|none|{'|'.join(NUMERALS)})\b)(?:[a-z]{{2,}}+|a|I|[\s,;:!?'\"()-])*+")
_WORD = r"(?!(?:and|or|pi|sin|cos|tan|cot|sec|csc|log|ln|sqrt|hundred|thousand|million|billion|trillion|percent)\b)[a-zA-Z]{2,}"
# The first word after an expression, a unit or a remark, unless it is an operand.
_PROSE = rf"(?<![-+*/=^<>\s])\s*[,;:—–]?\s+[(\[]?{_WORD}"
_CLAUSE = 2000  # characters that are read of what is said: twice those of the longest answer that is compared
# What no expression begins or ends with.
_DRESS = re.compile(r"^[^\w([{\\|$.+\-−–√±≈<>]+|[^\w)\]}|$%°!'∞]+$")


def extract(text: str, *, thinking: bool = False, truncated: bool = False, legacy: bool = False) -> str | None:
    """The final answer in a completion, or None.

    `thinking`: the prompt ended inside a thinking section. `truncated`: generation ended at its limit; then only a boxed
    answer counts, for the last number would be one of the reasoning.
    """
    answer = text if legacy else after_thinking(text, thinking)
    if answer is None:
        return None
    boxed = last_boxed(answer, unclosed=not truncated)
    if boxed is not None or (truncated and not legacy):
        return boxed
    return _stated(answer) or _last_number(answer)


def after_thinking(text: str, thinking: bool) -> str | None:
    """What is said outside of thinking sections; None of a completion that says nothing there.

    A mark of an end without its beginning ends a section all the same, unless nothing follows.
    """
    inside = thinking
    said: list[str] = []
    parts = re.split(f"({THINK}|{END_THINK})", text)
    last = max((index for index, part in enumerate(parts) if part != END_THINK and part.strip()), default=-1)
    for index, part in enumerate(parts):
        if part == THINK:
            inside = True
        elif part == END_THINK:
            if not inside and index < last:
                said = []
            inside = False
        elif not inside:
            said.append(part)
    answer = "\n".join(said)
    return answer if answer.strip() or not (thinking or THINK in text) else None


@dataclass
class _Box:
    """A box begins at `start`, its content is from `inside` to `stop`, and `end` is behind it; both are None while it is open."""

    start: int
    inside: int
    stop: int | None = None
    end: int | None = None


def _boxes(text: str) -> list[tuple[int, int, str, bool]]:
    """(start, end, content, whether closed) of every box that is in no other; escaped braces do not count.

    One pass, for a model may repeat a box to the end of its tokens. A box that is left open ends with its formula or line, or
    where the next begins.
    """
    boxes: list[_Box] = []
    braces: list[_Box | None] = []  # those that are open, each with the box that it opened
    for token in _BOX_OR_BRACE.finditer(text):
        if token["box"]:
            boxes.append(box := _Box(token.start(), token.end()))
            if token["open"]:
                braces.append(box)
            else:
                bare = _UNBRACED.match(text, box.inside)
                box.stop = box.end = bare.end() if bare else box.inside
        elif token[0] == "{":
            braces.append(None)
        elif token[0] == "}" and braces and (closed := braces.pop()):
            closed.stop, closed.end = token.span()
    found, covered = [], 0
    for box, following in zip(boxes, [*(box.start for box in boxes[1:]), len(text)], strict=False):  # of no boxes, too
        if box.start < covered:
            continue
        if box.end is None:
            cut = _END_OF_FORMULA.search(text, box.inside, following)
            end = cut.start() if cut else following
            found.append((box.start, end, text[box.inside : end].strip().rstrip("."), False))
        else:
            covered = box.end
            found.append((box.start, box.end, text[box.inside : box.stop].strip(), True))
    return found


def last_boxed(text: str, *, unclosed: bool = False) -> str | None:
    """The content of the last \\boxed{...} that is not empty, or of the last few joined by commas; None without one.

    `unclosed`: a last box whose brace is missing counts, to the end of its formula or line.
    """
    boxes = _boxes(text)
    if not unclosed:
        boxes = [box for box in boxes if box[3]]
    boxes = [box for box in boxes if box[2]] or boxes[-1:]
    contents = [box[2] for box in boxes]
    first = len(boxes) - 1
    while first > 0 and _BETWEEN.fullmatch(text, boxes[first - 1][1], boxes[first][0]) and boxes[first - 1][1] < boxes[first][0]:
        first -= 1
    return ", ".join(dict.fromkeys(contents[first:])) if boxes else None


def _stated(text: str) -> str | None:
    """What follows the last "the answer is" that is more than a remark; of remarks alone, the last if it is short."""
    starts = [match.end() for match in _STATED.finditer(text)]
    for start in reversed(starts):
        if not _REMARK.fullmatch(claim := _claim(text, start)):
            return _answer(claim)
    return _answer(_claim(text, starts[-1])) if starts else None


def _claim(text: str, start: int) -> str:
    """The clause at `start`, or the formula there that is all of it, without bold."""
    bold = text.count("**", 0, start) % 2
    rest = text[start : start + _CLAUSE].lstrip()
    if formula := _formula(rest):
        return formula[0]
    said = _CLAUSE_END.split(rest, maxsplit=1)[0].strip()
    said = said.split("**")[1] if said.startswith("**") and said.count("**") > 1 else said.split("**")[0] if bold else said
    return re.sub(r"^(?:simply|just|exactly|equal to|therefore|thus)\s+", "", said.strip("*").strip())


def _formula(text: str) -> re.Match[str] | None:
    """The formula that a text begins with, unless another value follows."""
    formula = _MATH.match(text)
    return formula if formula and not re.match(r"\s*(?:and\b|or\b|,)", text[formula.end() :]) else None


def _answer(said: str) -> str | None:
    """The formula, expression or few words that a clause begins with."""
    if formula := _formula(said):
        return next(group for group in formula.groups() if group).strip()
    expression = _DRESS.sub("", split(said, _PROSE)[0][1])
    if re.search(r"\b(?:not|either)\b", expression):
        return None
    words = re.search(rf"(?<![\\a-zA-Z\d])(?<![-+*/=^<>] ){_WORD}", re.sub(r"\\[a-zA-Z]+(?:\{[^{}]*\})?", "", expression))
    if expression and not words and (expression == said or re.search(r"[\d\\]", expression)):
        return re.sub(r"^\$(?=[^$]*$)", "", expression)
    return said if said and not re.search(r"\d", said) and len(said.split()) <= 4 else None


def _plain(text: str) -> str:
    return text.replace("\N{MINUS SIGN}", "-")


def _last_number(text: str) -> str | None:
    """The last number outside of dates and moduli, with its formula if that is LaTeX; without digits, the last numeral."""
    text = _NOT_ANSWERS.sub(" ", _plain(text))
    numbers = list(_NUMBER.finditer(text))
    for formula in _MATH.finditer(text):
        content = next(group for group in formula.groups() if group)
        if (not numbers or formula.start() < numbers[-1].start() < formula.end()) and re.search(
            r"\\(?:frac|dfrac|tfrac|sqrt|pi)", content
        ):
            return content.strip()
    if numbers:
        return numbers[-1][0]
    digits = re.findall(r"\d+", text)
    numerals = _NUMERAL.findall(text)
    return digits[-1] if digits else str(NUMERALS.index(numerals[-1].lower())) if numerals else None
