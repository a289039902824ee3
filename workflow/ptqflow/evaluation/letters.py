r"""The letter of the option that a completion chooses: `Answer: B`, as it was asked for, also bold, boxed or in brackets; else
what is boxed; else what is said to be the answer; else a letter alone on the last line; else the option that is said to be right.
The last of each counts.
"""

import re

from ptqflow.evaluation.answers import after_thinking, last_boxed

_WRAPPED = r"(?:\*\*|__|[\s$(\[{`\"'<]|\\\(|\\(?:text(?:bf)?|math(?:rm|bf)|boxed|fbox)|(?:option|choice)(?=\s))*"
_COLON = r"[:\uff1a]"  # also of full width
# "Answer: A detailed look" begins with an article, not with a letter.
_LETTER = r"(?P<letter>[B-Z]|A(?!\s+(?!because|since|as|is|and|which|with)(?-i:[a-z])))(?![\w'-])"
_ASKED = re.compile(rf"\banswer\**\s*{_COLON}\**{_WRAPPED}{_LETTER}", re.IGNORECASE)
_SAID = re.compile(
    r"\b(?:answer|option|choice)\b\**(?:\s+(?:here|therefore))?\s+(?:is|would be|must be|should be)\**"
    rf"{_COLON}?{_WRAPPED}{_LETTER}",
    re.IGNORECASE,
)
_RIGHT = re.compile(  # "whether option B is correct" asks, "neither C nor option D is" denies, "A is best described" says more
    r"(?:(?<!\bif )(?<!\bwhether )(?<!\bnor )\b(?:option|choice)\W{1,6}"
    r"|(?:^|[.!?]\s)(?:(?:so|thus|hence|therefore)\W{1,3})?[(*]{0,3})"
    r"([A-Z])\W{1,6}is\W{1,6}(?:the\s+)?(?:correct|right|best)\b"
    r"(?=[.,;:!)*]|\s*$|\s+(?:answer|option|choice|one|as|because|since)\b)",
    re.IGNORECASE | re.MULTILINE,
)
_ALONE = re.compile(r"\W*(?:(?:option|choice)\W+)?([A-Z])\W*", re.IGNORECASE)
_INSIDE = re.compile(rf"{_WRAPPED}([A-Z])(?![\w])", re.IGNORECASE)


def letter(text: str, *, thinking: bool, truncated: bool, legacy: bool, letters: str = "ABCD") -> str | None:
    """The letter chosen, one of `letters`; None without one. Arguments as of `answers.extract`: a completion that was cut off
    counts only where it has given its answer as it was asked to, or boxed it.
    """
    said = text if legacy else after_thinking(text, thinking)
    if said is None:
        return None
    found = [*_ASKED.finditer(said)]
    chosen = [match["letter"] for match in found if match["letter"] in letters]  # "answer: a" is no option's name
    if not chosen and (boxed := last_boxed(said)):
        inside = _INSIDE.match(boxed)
        chosen = [inside[1].upper()] if inside else []
    if not chosen and not (truncated and not legacy):
        chosen = [match["letter"] for match in _SAID.finditer(said) if match["letter"] in letters]
        last = said.strip().splitlines()[-1:]
        if not chosen and last and (alone := _ALONE.fullmatch(last[0])):
            chosen = [alone[1].upper()]
        chosen = chosen or [name for name in _RIGHT.findall(said) if name in letters]
    return chosen[-1] if chosen and chosen[-1] in letters else None
