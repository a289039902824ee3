"""Whether a program passes its tests, as LiveCodeBench's checker decides it: every test, in order, until one fails.

A program's output is compared line by line, without white space at the ends of lines and text; lines that differ are equal if all
their words are equal decimal numbers. A function's value is compared as data. A test may take 6 s and 4 GiB. Three quirks of that
checker are not kept, for they fail programs that are right: it runs a program as the body of a function, where what an inner
function calls `global` does not exist, its input raises StopIteration at the end instead of EOFError, and it puts imports before
`from __future__`, which must come first.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from ptqflow.evaluation.sandbox.session import running, sandbox


@dataclass(frozen=True)
class Case:
    """What goes into a program (or, as lines of JSON, into a function), and what must come out."""

    given: str
    expected: str


def passes(code: str, tests: Sequence[Case], function: str | None) -> bool:
    """Whether `code` passes all tests: its function, or the program if there is none. It runs in a sandbox."""
    sandbox()  # where none works, no answer is wrong for lack of one
    if not code.strip():
        return False
    with running(code, function, len(tests)) as session:
        for test in tests:
            given = [json.loads(line) for line in test.given.split("\n")] if function else test.given
            said = session.run(given)
            if said.failure is not None:
                return False
            if not (said.value == json.loads(test.expected) if function else same_lines(said.value, test.expected)):
                return False
    return True


def same_lines(said: object, expected: str) -> bool:
    """Whether two outputs are the same, line by line."""
    if not isinstance(said, str):
        return False
    ours, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (said, expected))
    return len(ours) == len(theirs) and all(map(_same, ours, theirs))


def _same(said: str, expected: str) -> bool:
    if said == expected:
        return True
    try:
        return [Decimal(word) for word in said.split()] == [Decimal(word) for word in expected.split()]
    except InvalidOperation:
        return False


def block(text: str, first: int = -2) -> str:
    """The lines between two that hold a fence, the last two (AISBench: the first); nothing where there are fewer."""
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[first] + 1 : fences[first + 1]]) if len(fences) > 1 else ""
