r"""Whether two final answers say the same: read into values, compared by kind.

The kinds: number or expression (with its unit, percent sign), number in a base, words, ordered tuple, bare list (solutions in any
order), set, matrix, set of reals (intervals, inequalities), equation. What an answer says must be what the gold answer says:
a tuple is not a list of solutions, a closed end not an open one, a base is part of the value, and a decimal is exact. What the
gold answer leaves out (a unit, a variable's name) the answer may add, and the other way round; it may not contradict it.
Scalars are compared by `expressions`, without any tolerance.
"""

import re

from ptqflow.evaluation.expressions import Unreadable, parsed, proportional, same
from ptqflow.evaluation.notation import spelled, unwrapped
from ptqflow.evaluation.reading import Based, Equation, Matrix, Named, Scalar, Several, Value, Words, read
from ptqflow.evaluation.reals import Reals, interval, same_reals

_LONGEST = 1000  # characters of an answer: what is longer is no spelling of a gold answer


def equal(answer: str | None, gold: str) -> bool:
    """Whether an extracted answer equals the gold answer. No answer equals nothing; nor does one of over a thousand characters.

    Raises `expressions.Undecided` where both are numbers too large to be told apart.
    """
    if answer is None or not answer.strip():
        return False
    if answer.strip() == gold.strip():
        return True
    if len(answer) > _LONGEST:
        return False
    target = read(spelled(gold))
    readings = dict.fromkeys(spelled(unwrapped(answer), grouped=grouped) for grouped in (True, False))
    if "." in gold:  # of 12\\pi \\approx 37.70, the side that is meant
        readings |= dict.fromkeys(reading.rpartition("\\approx")[2] for reading in readings)
    return any(agree(read(reading), target) for reading in readings)


def agree(a: Value, gold: Value) -> bool:
    """Whether an answer says what the gold answer says."""
    match a, gold:
        case (Named(x, left), Named(y, right)) if (x == y or len(x) != 1 or len(y) != 1) and agree(left, right):
            return True
        case (Named() | Equation(), Named() | Equation()):
            return _same_equation(a, gold)
        case (Named(_, value), _):
            return agree(value, gold)
        case (_, Named(_, value)):
            return agree(a, value)
        case (Scalar(), Scalar()):
            return _same_scalar(a, gold)
        case (Scalar(letters), Words(words)) | (Words(words), Scalar(letters)):
            return letters.isalpha() and words in (f"choice {letters.upper()}", letters.casefold())
        case (Words(left), Words(right)):
            return left == right
        case (Based(), Based()) | (Words(), _) | (_, Words()):
            return a == gold
        case (Matrix(left), Matrix(right)):
            return [len(r) for r in left] == [len(r) for r in right] and all(
                agree(x, y) for p, q in zip(left, right, strict=True) for x, y in zip(p, q, strict=True)
            )
        case (Reals(), Reals()):
            return same_reals(a, gold)
        case (Reals() as reals, Several("tuple", (Scalar(low), Scalar(high)))) | (
            Several("tuple", (Scalar(low), Scalar(high))),
            Reals() as reals,
        ):
            ends = interval(f"({low},{high})")
            return ends is not None and same_reals(reals, ends)
        case (Several(), Several()):
            return _same_several(a, gold)
        case (Several("list", items), _):  # one value in several spellings
            return all(agree(item, gold) for item in items)
        case (Several("set", (only,)), _):
            return agree(only, gold)
        case (_, Several("set", (only,))):
            return agree(a, only)
    return False


def _same_several(a: Several, gold: Several) -> bool:
    if len(a.items) != len(gold.items):
        return False
    if gold.kind in ("tuple", "brackets"):
        return (a.kind == gold.kind or (a.kind == "list" and gold.kind == "tuple")) and all(
            agree(x, y) for x, y in zip(a.items, gold.items, strict=True)
        )
    if a.kind not in ("list", "set"):
        return False
    left = list(gold.items)
    for item in a.items:
        found = next((other for other in left if agree(item, other)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _same_scalar(a: Scalar, gold: Scalar) -> bool:
    if a.text.isalpha() and gold.text.isalpha() and len(gold.text) > 2:  # a short word, which reads as a product too
        return a.text.casefold() == gold.text.casefold()
    if a.unit and gold.unit and a.unit != gold.unit:
        return False
    if a.unit == gold.unit and a.unit.startswith("mod "):  # residues
        return _same_text(f"({a.text})\\{a.unit}", f"({gold.text})\\{gold.unit}")
    if _same_text(a.text, gold.text):
        # Where 0.5 is asked for, 0.5 % is another number; where 50 is, 50 % may be what was asked.
        return a.unit != "%" or gold.unit == "%" or bool(re.fullmatch(r"-?(?:0|[1-9]\d*(?:\.\d+)?)", gold.text))
    if (a.unit == "%") != (gold.unit == "%"):  # 50 % may be asked for as 50 or as 0.5
        percent, plain = (a, gold) if a.unit == "%" else (gold, a)
        return _same_text(f"({percent.text})/100", plain.text)
    return False


def _same_text(a: str, b: str) -> bool:
    if a == b:
        return True
    try:
        return same(parsed(a), parsed(b))
    except Unreadable:  # without a value, as 1/0
        return False


def _same_equation(a: Value, gold: Value) -> bool:
    """Differences of sides that are a constant multiple of each other: x = y/2 and y = 2x."""
    try:
        left, right = (parsed(_difference(equation)) for equation in (a, gold))
        return left.free_symbols == right.free_symbols and proportional(left, right)
    except (Unreadable, ZeroDivisionError):
        return False


def _difference(equation: Value) -> str:
    """One side minus the other. Raises Unreadable for a name of what is no expression."""
    match equation:
        case Equation(left, right) | Named(left, Scalar(right, "")):
            return f"({left})-({right})"
    raise Unreadable(str(equation))
