"""Verdicts within a limit of processor time: answers are compared in a worker process that the kernel stops.

What is compared was written by a model and may be any formula. The limit counts the worker's own processor time, not the clock's,
so that a busy machine changes no verdict; it is a thousand times what a comparison takes. One that reaches it has no verdict: it
is neither right nor wrong.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from functools import cache

from ptqflow.errors import ArtifactError

CPU_SECONDS = 20
_BYTES = 4 << 30  # of the worker's address space


def grade(answer: str | None, gold: str) -> tuple[bool | None, str | None]:
    """(whether an extracted answer equals gold, None); or (None, why that is not known). No answer is wrong.

    Raises ArtifactError when the worker dies of anything but its limit.
    """
    if answer is None or not answer.strip():
        return False, None
    if answer.strip() == gold.strip():
        return True, None
    worker = _worker()
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(json.dumps([answer, gold]) + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
    except BrokenPipeError:
        line = ""
    if line:
        correct, reason = json.loads(line)
        return correct, reason
    _worker.cache_clear()
    worker.stdin.close()
    worker.stdout.close()
    code = worker.wait()
    if code == -signal.SIGPROF:
        return None, f"comparing the answer with gold took more than {CPU_SECONDS} s of processor time"
    raise ArtifactError(f"comparing {answer!r} with {gold!r}: the worker ended with {code}; score again")


@cache
def _worker() -> subprocess.Popen[str]:
    """A process that answers one JSON line with another until its input ends."""
    command = [sys.executable, "-c", f"from {__name__} import {_serve.__name__}; {_serve.__name__}()"]
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
    )


def _serve() -> None:
    from ptqflow.evaluation.equality import equal
    from ptqflow.evaluation.expressions import Undecided

    equal("\\frac{1}{2}", "0.5")  # imports what a comparison needs, outside of its limit
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, also within one long operation
    for line in sys.stdin:
        answer, gold = json.loads(line)
        verdict: tuple[bool | None, str | None]
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            verdict = equal(answer, gold), None
        except Undecided:
            verdict = None, "answer and gold are numbers too large to be told apart"
        except (MemoryError, RecursionError):
            verdict = None, "comparing the answer with gold took too much memory"
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(verdict), flush=True)
