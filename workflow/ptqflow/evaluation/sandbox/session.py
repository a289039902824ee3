"""A session with code in the sandbox: inputs go in, outputs come out, one after the other, until one of both sides ends it."""

import json
import os
import selectors
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from ptqflow.errors import ArtifactError
from ptqflow.evaluation.sandbox.runtimes import Sandbox, working

_STARTUP = 60  # seconds of wall time that the sandbox may take to start, on a busy machine


@dataclass(frozen=True)
class Limits:
    """Of one run on one input, `seconds` of processor time and `wall` seconds; of the process, which has no children, bytes of
    `memory` (address space); bytes of a `file`, and of what is said (`output`).
    """

    seconds: float = 6
    wall: float = 30
    memory: int = 4 << 30
    file: int = 64 << 20
    output: int = 80 << 20


@dataclass(frozen=True)
class Said:
    """What came of one input: a `value`, or the `failure` (raised, time, memory, ended)."""

    value: Any = None
    failure: str | None = None


class Ended(Exception):
    """The sandbox ended, or was ended: why."""


class Session:
    """Code in a sandbox of its own. `run` gives it an input; after a failure of the process there is nothing more to ask."""

    def __init__(self, process: "subprocess.Popen[bytes]", limits: Limits) -> None:
        self._process, self._limits = process, limits
        self._said = bytearray()
        self._answered = False
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)

    def exchange(self, message: Any, wall: float, output: int) -> Any:
        """Send a message and wait for the line that answers it. Raises Ended."""
        return self._exchange(json.dumps(message).encode() + b"\n", wall, output, answered=True)

    def send(self, message: Any, wall: float) -> None:
        """Send a message that is not answered. Raises Ended."""
        self._exchange(json.dumps(message).encode() + b"\n", wall, 0, answered=False)

    def run(self, given: Any) -> Said:
        """What the code makes of one input."""
        try:
            answer = self.exchange(given, self._limits.wall, self._limits.output)
        except Ended as error:
            return Said(failure=str(error))
        if not isinstance(answer, dict) or not answer.keys() & {"value", "error"}:
            return Said(failure="it answered in the runner's place")
        return Said(failure=str(answer["error"])) if "error" in answer else Said(answer["value"])

    def _exchange(self, line: bytes, wall: float, output: int, *, answered: bool) -> Any:
        process, end = self._process, time.monotonic() + wall
        assert process.stdin is not None
        assert process.stdout is not None
        self._answered = b"\n" in self._said
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdin, selectors.EVENT_WRITE)
            if answered:
                ready.register(process.stdout, selectors.EVENT_READ)
            while line or (answered and not self._answered):
                if (left := end - time.monotonic()) <= 0:
                    raise Ended(f"it took more than {wall:g} s")
                for key, _ in ready.select(left):
                    if key.fileobj is process.stdin:
                        line = self._write(line)
                        if not line:
                            ready.unregister(process.stdin)
                    elif not (part := os.read(process.stdout.fileno(), 1 << 20)):
                        raise Ended(self._end())
                    else:
                        self._said += part
                        self._answered = self._answered or b"\n" in part
                        if len(self._said) > output:
                            raise Ended(f"it said more than {output} bytes")
        if not answered:
            return None
        answer, _, self._said = self._said.partition(b"\n")
        try:
            return json.loads(bytes(answer))
        except (ValueError, RecursionError):
            raise Ended("it answered in the runner's place") from None

    def _write(self, line: bytes) -> bytes:
        assert self._process.stdin is not None
        try:
            return line[os.write(self._process.stdin.fileno(), line[: 1 << 16]) :]
        except BrokenPipeError:
            raise Ended(self._end()) from None

    def _end(self) -> str:
        """Why the process is gone; bubblewrap and Apptainer report a signal as 128 more."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        code = code - 128 if code > 128 else -code if code < 0 else 0
        return {27: "it took more processor time than it may", 24: "it took more processor time than it may"}.get(
            code, "it ended itself, or was ended by the kernel"
        )


@contextmanager
def _started(found: Sandbox, limits: Limits, cpu: int) -> Iterator[Session]:
    """The runner, confined and ready; killed with all that it started at the end. Raises Ended where it does not start."""
    with subprocess.Popen(
        found.command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
        start_new_session=True,
        bufsize=0,
    ) as process:
        try:
            session = Session(process, limits)
            told = {"memory": limits.memory, "file": limits.file, "cpu": cpu, "seconds": limits.seconds}
            told["files"] = found.limits_files
            try:
                session.exchange(told, _STARTUP, 1 << 16)
            except Ended as error:
                process.kill()
                assert process.stderr is not None
                complaint = process.stderr.read(4096).decode(errors="replace").strip().splitlines()
                raise Ended(complaint[-1] if complaint else str(error)) from None
            yield session
        finally:
            process.kill()  # the first process of its namespace: the kernel ends all others with it


def complaint(found: Sandbox) -> str | None:
    """Why this sandbox does not work here, or None: it must run a program, and show it nothing of ours."""
    seen = f"import os\nprint(int(input()) + 1, os.path.exists({os.path.abspath(__file__)!r}), os.getcwd())"
    try:
        with _started(found, Limits(), 60) as session:
            session.send({"code": seen, "function": None}, _STARTUP)
            said = session.run("41\n")
    except (Ended, OSError) as error:
        return str(error)
    if said.value != "42 False /tmp\n":
        return f"a program in it said {said.value or said.failure!r}, where 42 and no file of ours were expected"
    return None


@cache
def sandbox() -> Sandbox:
    """The sandbox that works on this machine. Raises ConfigError where none does."""
    return working(complaint)


@contextmanager
def running(code: str, function: str | None, inputs: int, limits: Limits = Limits()) -> Iterator[Session]:
    """`code` in a sandbox of its own, for `inputs` runs. Raises ArtifactError where a sandbox that worked does not start."""
    found = sandbox()
    try:
        with _started(found, limits, int(limits.seconds * inputs) + 60) as session:
            with suppress(Ended):  # the first run says so
                session.send({"code": code, "function": function}, _STARTUP)
            yield session
    except Ended as error:
        raise ArtifactError(f"the sandbox ({found.name}) does not start ({error}); score again") from None
