"""Verdicts within a limit of processor time: answers are compared in a worker process that the kernel stops.

What is compared was written by a model and may be any formula. The limit is a thousand times what a comparison takes. One that
reaches it has no verdict: it is neither right nor wrong.
"""

from functools import cache

from ptqflow.errors import ArtifactError
from ptqflow.worker import OutOfTimeError, Worker, WorkerEndedError

CPU_SECONDS = 20


def grade(answer: str | None, gold: str) -> tuple[bool | None, str | None]:
    """(whether an extracted answer equals gold, None); or (None, why that is not known). No answer is wrong.

    Raises ArtifactError when the worker dies of anything but its limit.
    """
    if answer is None or not answer.strip():
        return False, None
    if answer.strip() == gold.strip():
        return True, None
    try:
        correct, reason = _worker()(answer, gold)
    except OutOfTimeError as limit:
        return None, f"comparing the answer with gold took {limit}"
    except WorkerEndedError as end:
        raise ArtifactError(f"comparing {answer!r} with {gold!r}: {end}; score again") from None
    return correct, reason


@cache
def _worker() -> Worker:
    return Worker(_verdict, CPU_SECONDS, "\\frac{1}{2}", "0.5")


def _verdict(answer: str, gold: str) -> tuple[bool | None, str | None]:
    from ptqflow.evaluation.equality import equal
    from ptqflow.evaluation.expressions import Undecided

    try:
        return equal(answer, gold), None
    except Undecided:
        return None, "answer and gold are numbers too large to be told apart"
    except (MemoryError, RecursionError):
        return None, "comparing the answer with gold took too much memory"
