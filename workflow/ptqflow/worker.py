"""A function in a process of its own, within limits of processor time and memory that the kernel keeps.

For what runs a program or a formula of others: one long operation inside an interpreter cannot be interrupted, a process can be
ended. The limit counts the worker's own processor time, not the clock's, so that a busy machine changes no result.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

BYTES = 4 << 30  # of the worker's address space
_READY = "ready\n"


class OutOfTimeError(Exception):
    """The function took more processor time than it may."""


class WorkerEndedError(Exception):
    """The process ended of anything but its limit of time. It had started: before that, memory did not suffice."""


class Worker:
    """A function of the top of a module, whose arguments and result are JSON; started when first asked, and after each end."""

    def __init__(self, function: Callable[..., Any], seconds: float, *example: Any) -> None:
        """`seconds` of processor time per call. `example`: arguments of a first call outside the limits, for what it imports."""
        self.seconds = seconds
        self.process: subprocess.Popen[str] | None = None
        self._function, self._example = function, example

    def __call__(self, *arguments: Any) -> Any:
        """The function's result. Raises OutOfTimeError or WorkerEndedError; TypeError for arguments that are no JSON.

        MemoryError where no process can be started.
        """
        request = json.dumps(arguments)
        process = self.process = self.process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        self.process = None
        with suppress(BrokenPipeError):  # of what it had not read
            process.stdin.close()
        process.stdout.close()
        code = process.wait()
        if code == -signal.SIGPROF:
            raise OutOfTimeError(f"more than {self.seconds} s of processor time")
        raise WorkerEndedError(f"the worker ended with {code}")

    def _start(self) -> subprocess.Popen[str]:
        name = f"{self._function.__module__}:{self._function.__qualname__}"
        command = [sys.executable, "-c", f"from {__name__} import serve; serve({name!r}, {self.seconds!r}, {self._example!r})"]
        paths = os.pathsep.join(path for path in sys.path if path)
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
        )
        assert process.stdout is not None
        if process.stdout.readline() != _READY:
            process.communicate()
            raise MemoryError(f"a worker process did not start (it ended with {process.returncode})")
        return process


def serve(name: str, seconds: float, example: tuple[Any, ...]) -> None:
    """Answer each JSON line of arguments with the line of the result, until the input ends."""
    module, _, function = name.partition(":")
    answer = getattr(import_module(module), function)
    answer(*example)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = BYTES if hard == resource.RLIM_INFINITY else min(BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, also within one long operation
    print(end=_READY, flush=True)
    for line in sys.stdin:
        arguments = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        result = json.dumps(answer(*arguments))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(result, flush=True)
