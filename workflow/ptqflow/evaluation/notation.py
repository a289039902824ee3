r"""One spelling for mathematical answers: LaTeX, Unicode and plain text that mean the same are written alike.

Purely textual: what is written here is read by `equality`. Nothing changes a value: decimals stay decimals, a base stays a base,
a unit stays a unit.
"""

import re

_SYMBOLS = str.maketrans(
    {
        "−": "-", "–": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/",
        "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "≤": r"\le ",
        "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "°": r"^\circ ", "√": r"\sqrt ", "ℝ": r"\mathbb{R}",
        "∅": r"\emptyset ", "∖": r"\setminus ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
        "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅛": r"\frac{1}{8}", "…": r"\ldots ", "’": "'", "⟨": "(", "⟩": ")",
        "\xa0": " ", "\u2009": " ", "\u202f": " ", "\u2007": " ", "\u200b": "",
    }
)  # fmt: skip
ROW = "\1"  # between the rows of a matrix: the two backslashes would read as the start of a command
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ", "0123456789-n")
# A root sign is over the whole number that follows; \sqrt without braces, over its first digit.
_ROOT = re.compile(r"(?:√|(?<![a-zA-Z\\])sqrt)\s*(\d+(?:,\d{3})*(?:\.\d+)?|[a-zA-Z](?![a-zA-Z]))")
_COMMANDS = [  # (pattern of commands without their backslash, what all of them are written as)
    ("left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|thinspace|negthinspace|bf|rm|it|kern-?[0-9.]+\\w\\w", ""),
    ("(?:text)?color\\s*\\{[a-z]+\\}|tiny|small|normalsize|large|Large|LARGE|huge|Huge", ""),
    ("quad|qquad|enspace|enskip|space", " "),
    ("dfrac|tfrac|cfrac|nicefrac|sfrac", r"\frac"),
    (
        "math(?:rm|bf|it|sf|tt|normal)|bm|boldsymbol|pmb|text(?:bf|rm|it|sf|tt|normal|up)|[mh]box|operatorname\\*?|emph|underline|"
        "fbox|f?boxed",
        r"\text",
    ),
    ("leq|leqslant|leqq|le", r"\le"),
    ("geq|geqslant|geqq|ge", r"\ge"),
    ("neq|ne", r"\ne"),
    ("lt", "<"),
    ("gt", ">"),
    ("lbrace", r"\{"),
    ("rbrace", r"\}"),
    ("langle|lparen", "("),
    ("rangle|rparen", ")"),
    ("lbrack", "["),
    ("rbrack", "]"),
    ("lvert|rvert|vert|mid", "|"),
    ("varnothing|empty", r"\emptyset"),
    ("infin|infty", r"\infty"),
    ("approxeq|simeq|approx", r"\approx"),
    ("cdots|ldots|dots|dotsc", r"\ldots"),
    ("pm", r"\pm"),  # apart from what follows, as the next two
    ("mp", r"\mp"),
    ("equiv", r"\equiv"),
    ("bmod|mod", r"\mod"),
    ("div", "/"),
    ("ast|star", r"\cdot"),
    ("degrees?", r"^\circ"),
    ("lor|vee", r"\text{ or }"),
    ("land|wedge", r"\text{ and }"),
    ("backslash|smallsetminus|setminus", r"\setminus"),
]  # fmt: skip
_REPLACEMENTS = [
    (re.compile(rf"\\(?:{pattern})(?![a-zA-Z])"), (r" " if new == " " else new + (" " if new[-1:].isalpha() else "")))
    for pattern, new in _COMMANDS
]
_FUNCTIONS = re.compile(
    r"(?<![a-zA-Z\\])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|sqrt|pi|infty)(?![a-zA-Z])"
)
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d]|,\d)")
_GROUPED_BY_SPACE = re.compile(r"(?<![\d.,/^_] )(?<![\d.,/^_{])\d{1,3}(?: \d{3})+(?![\d/]|\.? \d)")
_MIXED = re.compile(r"(?<![\d.\w^_}])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}")


def spelled(text: str, *, grouped: bool = True) -> str:
    """`text` in the one spelling. `grouped`: 1,234 outside brackets is one number, otherwise it is two."""
    text = re.sub(r"\\\\(?:\[\d*\.?\d*\w*\])?|\\cr\b", ROW, text)
    text = re.sub(r"[₀-₉]+", lambda m: f"_{{{m[0].translate(_SUBSCRIPTS)}}}", text)
    text = re.sub(r"[⁰¹²³⁴-⁹⁻ⁿ]+", lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _ROOT.sub(r"\\sqrt{\1}", text).translate(_SYMBOLS)
    text = re.sub(r"\\[,;:> ]|~", " ", text)
    text = re.sub(r"\{,\}|,\s*\\[!]\s*", "\0", text)  # a thousands separator for certain
    text = re.sub(r"(?<=\d)\s*\0\s*(?=\d{3})", "", text).replace("\0", ",")
    text = re.sub(r"\\!\s*", "", text)
    for pattern, new in _REPLACEMENTS:
        text = pattern.sub(lambda _, new=new: new, text)  # type: ignore[misc]
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ").replace("**", "^").replace("*", r"\cdot ")
    text = re.sub(r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-zA-Z])", r"^\\circ ", text)
    text = re.sub(r"\\?%", r"\\%", text)
    text = re.sub(r"(?<!\\)\$|\\[()\[\]]", "", text)
    text = re.sub(r"\\text\s*\{\s*([-+]?[\d.,/]+|[ie]|\\[a-zA-Z]+)\s*\}", r"\1", text)  # \mathbf{5}, \mathrm{i}
    text = _FUNCTIONS.sub(r"\\\1 ", text)
    text = re.sub(r"(?<![a-zA-Z\\])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty ", text)
    text = _called(text)
    text = re.sub(r"(\d)\s*(?:\\ldots\b|\.\.\.+)(?!\s*[\d,+])", r"\1", text)
    text = re.sub(r"(?<![a-zA-Z\d.])(\d+\.?\d*)[eE]([-+]?\d+)(?![\d.])", r"\1\\times 10^{\2}", text)
    text = _GROUPED_BY_SPACE.sub(lambda m: m[0].replace(" ", ""), text)
    if grouped:
        text = _outside_brackets(_GROUPED, text)
    text = _braced(text)
    text = re.sub(r"(?<![\d./^_{\w])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"(\1+\\frac{\2}{\3})", text)
    text = _MIXED.sub(r"(\1+\\frac{\2}{\3})", text)
    return re.sub(r"\s+", " ", text).strip()


def _outside_brackets(pattern: re.Pattern[str], text: str) -> str:
    """Thousands joined; within brackets only where other commas are followed by a space, as in (1,000, 2,000)."""
    spaced = ", " in text

    def joined(match: re.Match[str]) -> str:
        before = text[: match.start()]
        inside = sum(before.count(c) for c in "([") > sum(before.count(c) for c in ")]") or before.count(r"\{") > before.count(
            r"\}"
        )
        return match[0] if inside and not spaced else match[0].replace(",", "")

    return pattern.sub(joined, text)


def _called(text: str) -> str:
    r"""\sqrt(2) and 2^(10) with braces."""
    for opening in (r"\\sqrt\s*\(", r"\^\s*\("):
        while match := re.search(opening, text):
            end = closing(text, match.end() - 1)
            if end is None:
                return text
            head = "^" if match[0][0] == "^" else r"\sqrt"
            text = f"{text[: match.start()]}{head}{{{text[match.end() : end]}}}{text[end + 1 :]}"
    return text


def _braced(text: str) -> str:
    r"""\frac12, \frac 1{2}, \sqrt2, 2^10 and x_1 with braces around each argument."""
    argument = r"\s*(\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}|\\[a-zA-Z]+(?:\s*\{[^{}]*\})?|[^\s\\{}])"

    def wrapped(part: str) -> str:
        return part if part.startswith("{") else f"{{{part}}}"

    for _ in range(3):  # arguments of arguments
        text = re.sub(r"\\frac" + argument + argument, lambda m: rf"\frac{wrapped(m[1])}{wrapped(m[2])}", text)
        text = re.sub(r"\\sqrt\s*(\[[^\[\]]*\])?" + argument, lambda m: rf"\sqrt{m[1] or ''}{wrapped(m[2])}", text)
    text = re.sub(r"(?:\{|^)\s*([^{}]+?)\s*\\choose\s*([^{}]+?)\s*(?:\}|$)", r"\\binom{\1}{\2}", text)
    text = re.sub(r"(?:\{|^)\s*([^{}]+?)\s*\\over\s*([^{}]+?)\s*(?:\}|$)", r"\\frac{\1}{\2}", text)
    return re.sub(r"([\^_])\s*(-?\d+)(?![\d}.])", r"\1{\2}", text)


def closing(text: str, start: int) -> int | None:
    """Index of the bracket that closes the one at `start` (round with round and so on; escaped ones are skipped in braces)."""
    depth, position = 0, start
    opening = text[start]
    close = {"(": ")", "[": "]", "{": "}"}[opening]
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] == opening:
            depth += 1
        elif text[position] == close:
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return None


def split(text: str, separators: str) -> list[tuple[str, str]]:
    """(separator before, part) of `text` cut at the pattern `separators` where no bracket or environment is open."""
    found, depth, start, position, before = [], 0, 0, 0, ""
    token = re.compile(r"\\begin\{|\\end\{|\\[{}]|[()\[\]{}]")
    cut = re.compile(separators)
    while position < len(text):
        if depth == 0 and (match := cut.match(text, position)) and match.end() > position:
            found.append((before, text[start:position].strip()))
            before, start, position = match[0].strip(), match.end(), match.end()
        elif match := token.match(text, position):
            opens = match[0] in ("\\begin{", "\\{", "(", "[", "{")
            if match[0] in ("\\begin{", "\\end{"):
                end = text.find("}", position)
                position = end if end >= 0 else len(text)
            depth += 1 if opens else -1
            position = max(position + 1, match.end()) if match[0] not in ("\\begin{", "\\end{") else position + 1
        elif text[position] == "\\":
            position += 1
            while position < len(text) and text[position].isalpha():
                position += 1
            position = max(position, 1)
        else:
            position += 1
    return [*found, (before, text[start:].strip())]


def unwrapped(text: str) -> str:
    r"""Without what only dresses a whole answer: braces, \text{...} around all of it, final punctuation."""
    while True:
        bare = text.strip().rstrip(".,;:").strip().strip("*`").strip().removesuffix("\\").strip()
        bare = re.sub(r"^\\text\s*(?=\{)", "\\\\text", bare)
        start = 5 if bare.startswith("\\text{") else 0
        if bare[start : start + 1] == "{" and closing(bare, start) == len(bare) - 1:
            bare = bare[start + 1 : -1]
        if bare == text:
            return text
        text = bare
