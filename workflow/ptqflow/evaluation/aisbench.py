r"""What AISBench reads out of a completion (AISBench/benchmark@29c363e): its post-processors, as its tasks of these benchmarks
use them. Extraction alone is AISBench's; that an answer equals gold is decided as everywhere here, as mathematics, not as text.

A completion whose thinking never ends is read whole there, so that one cut off can be right.
"""

import re

from ptqflow.chat import END_THINK, THINK

_SECTION = re.compile(f"{THINK}.*?{END_THINK}", re.DOTALL)


def spoken(text: str) -> str:
    """What follows the last end of thinking, where no beginning is in the text; else the text without its closed sections."""
    closed, mark, rest = text.rpartition(END_THINK)
    return (rest if THINK not in text else _SECTION.sub("", closed + mark) + rest).strip()


def formula(text: str) -> str | None:
    """The last \\boxed{...} whose braces close; else the first sentence with "final answer" or "answer is", else the first."""
    start = max(text.rfind("\\boxed"), -1)
    start = start if start >= 0 else text.rfind("\\fbox")
    if start >= 0 and (content := _braced(text, start)):
        return re.sub(r"^\{(.*)\}$", r"\1", content)
    sentences = text.split(".")
    said = next((part for part in sentences if re.search("final answer|answer is", part.lower())), sentences[0])
    return re.split(r"(?:final answer|answer)\s*(?:is|:)?\s*:?", said, flags=re.IGNORECASE)[-1].strip(" $*\n") or None


def number(text: str) -> str | None:
    """The last number before the model makes up another question."""
    found = re.findall(r"-?\d+\.\d+|-?\d+", text.split("Question:")[0])
    return found[-1] if found else None


def letter(text: str) -> str | None:
    """The last `Answer: X`."""
    found = re.findall(r"(?i)ANSWER\s*:\s*([A-D])", text)
    return found[-1] if found else None


def _braced(text: str, start: int) -> str | None:
    """The content of the first braces after `start`, if they close."""
    first, depth = text.find("{", start), 0
    for position in range(first, len(text)) if first >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[first + 1 : position]
    return None
