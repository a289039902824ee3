"""Runs in the sandbox, as a file of its own with the standard library only: gives up rights, then runs generated code on inputs.

It is told, as JSON lines on its input: limits; then code and function; then one input after the other. It answers each with one
line: what the code printed or returned, or what it raised. What is right is not known here: expected outputs stay outside, where
the answers are compared, so that nothing the code does to this process can make it right.
"""

import contextlib
import ctypes
import errno
import gc
import json
import os
import platform
import resource
import signal
import struct
import sys
import threading
from types import CodeType
from typing import Any

PACKAGES = "/packages"  # numpy, which solutions of contests may use
SCRATCH = "/tmp"
# What the official checker puts before a solution.
_STARRED = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip
PREAMBLE = (
    "".join(f"from {name} import *\n" for name in _STARRED)
    + "import string\nimport re\nimport datetime\nimport collections\nimport heapq\nimport bisect\nimport copy\nimport math\n"
    "import random\nimport statistics\nimport itertools\nimport functools\nimport operator\nimport io\nimport sys\nimport json\n"
    "sys.setrecursionlimit(50000)\n"
)

# System calls by architecture: (audit number, clone, clone3, socket, openat, refused ones). Refused: new processes and programs,
# other processes' memory, mounts and namespaces, memory that no limit counts, kernel interfaces.
_CALLS = {
    "x86_64": (
        0xC000003E, 56, 435, 41, 257,
        [57, 58, 59, 322, 101, 310, 311, 165, 166, 155, 161, 272, 308, 319, 447, 29, 425, 426, 321, 298, 323, 248, 249, 250,
         175, 313, 176, 246, 169, 428, 429, 430, 432, 442, 304, 440, 438, 240],
    ),
    "aarch64": (
        0xC00000B7, 220, 435, 198, 56,
        [221, 281, 117, 270, 271, 40, 39, 41, 51, 97, 268, 279, 447, 194, 425, 426, 280, 241, 282, 217, 218, 219, 105, 273, 106,
         104, 142, 428, 429, 430, 432, 442, 265, 440, 438, 180],
    ),
}  # fmt: skip
_MAKING = {"x86_64": [2, 85, 133, 259], "aarch64": [33]}  # open, creat, mknod, mknodat: of files; openat by its flag
_THREAD, _CREATE = 0x00010000, 0x40  # CLONE_THREAD, O_CREAT
_OPENAT2 = 437
_ALLOW, _DENY, _ABSENT, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000


def _filter(machine: str, files: bool) -> bytes:
    """The seccomp program: a list of refused calls, threads but no processes, sockets within this machine only; new `files`, or
    none where nothing limits how many there are.
    """
    audit, clone, clone3, socket, openat, refused = _CALLS[machine]

    def load(offset: int) -> bytes:
        return struct.pack("HBBI", 0x20, 0, 0, offset)

    def jump(kind: int, value: int, then: int, other: int) -> bytes:
        return struct.pack("HBBI", kind, then, other, value)

    def end(action: int) -> bytes:
        return struct.pack("HBBI", 0x06, 0, 0, action)

    equal, at_least, has_bit, argument = 0x15, 0x35, 0x45, load(16)
    program = [load(4), jump(equal, audit, 1, 0), end(_KILL), load(0), jump(at_least, 0x40000000, 0, 1), end(_DENY)]
    for call in refused if files else [*refused, *_MAKING[machine]]:
        program += [jump(equal, call, 0, 1), end(_DENY)]
    for call in (clone3, _OPENAT2):  # their flags are in memory: the C library falls back to clone and openat
        program += [jump(equal, call, 0, 1), end(_ABSENT)]
    program += [jump(equal, clone, 0, 4), argument, jump(has_bit, _THREAD, 0, 1), end(_ALLOW), end(_DENY)]
    program += [jump(equal, socket, 0, 4), argument, jump(equal, 1, 0, 1), end(_ALLOW), end(_DENY)]  # 1: AF_UNIX
    if not files:
        flags = load(32)
        program += [jump(equal, openat, 0, 4), flags, jump(has_bit, _CREATE, 0, 1), end(_DENY), end(_ALLOW)]
    return b"".join([*program, end(_ALLOW)])


def confine(memory: int, file: int, cpu: int, files: bool) -> None:
    """Limit this process for good: bytes of address space and of a file, seconds of processor time, system calls."""
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    resource.setrlimit(resource.RLIMIT_STACK, (min(memory, 1 << 30), resource.getrlimit(resource.RLIMIT_STACK)[1]))
    code = _filter(platform.machine(), files)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    library = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if library.prctl(38, ctypes.c_ulong(1), zero, zero, zero):  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if library.prctl(22, ctypes.c_ulong(2), ctypes.create_string_buffer(program), zero, zero):  # PR_SET_SECCOMP, filter
        raise OSError(ctypes.get_errno(), "seccomp")


def plain(value: Any) -> Any:
    """A returned value as JSON data. TypeError for what equals no JSON value: sets, tuples within others, objects."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if hasattr(value, "dtype") and getattr(value, "shape", None) == ():
        return value.item()
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(entry) for key, entry in value.items()}
    raise TypeError(f"a {type(value).__name__} equals no expected output")


def _run(code: CodeType, name: str) -> dict[str, Any]:
    """What the module `name` holds after the preamble and the code; apart, for `from __future__` begins a file."""
    space: dict[str, Any] = {"__name__": name}
    exec(PREAMBLE, space)
    exec(code, space)
    return space


def call(code: CodeType, function: str, arguments: list) -> Any:
    """What `Solution().function`, or the function itself, returns; a tuple counts as a list."""
    space = _run(code, "solution")
    method = getattr(space["Solution"](), function) if "Solution" in space else space[function]
    value = method(*arguments)
    return plain(list(value) if isinstance(value, tuple) else value)


def program(code: CodeType, text: str, null: int) -> str:
    """What a program prints that reads `text`: its input and output are files, however it reads and writes them."""
    os.dup2(null, 0)  # whatever the run before has closed: files opened now must be others
    os.dup2(null, 1)
    inside, outside = (os.open(f"{SCRATCH}/.{name}", os.O_RDWR | os.O_TRUNC) for name in ("in", "out"))
    try:
        with open(inside, "w", encoding="utf-8", closefd=False) as file:
            file.write(text)
        os.lseek(inside, 0, os.SEEK_SET)
        os.dup2(inside, 0)
        os.dup2(outside, 1)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (they live as long as the program)
        sys.stdout = printed = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        before = set(threading.enumerate())
        with contextlib.suppress(SystemExit):
            _run(code, "__main__")
        for thread in threading.enumerate():
            if thread not in before and not thread.daemon:
                thread.join()
        if not printed.closed:
            printed.flush()
        with open(f"{SCRATCH}/.out", "rb") as file:
            return file.read().decode(errors="replace")
    finally:
        os.close(inside)
        os.close(outside)


def main() -> None:
    """Serve the lines of the host until it ends."""
    channel, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)

    def answer(value: dict) -> None:
        line = json.dumps(value).encode() + b"\n"
        while line:
            line = line[os.write(answers, line) :]

    limits = json.loads(channel.readline())
    sys.path.append(PACKAGES)
    sys.set_int_max_str_digits(0)
    os.chdir(SCRATCH)
    for name in ("in", "out"):
        os.close(os.open(f"{SCRATCH}/.{name}", os.O_CREAT, 0o600))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file too large is an error, as a full disk is
    confine(limits["memory"], limits["file"], limits["cpu"], limits["files"])
    answer({"ready": True})
    task = json.loads(channel.readline())
    code: CodeType | Exception
    try:
        code = compile(task["code"], "<solution>", "exec", dont_inherit=True)
    except Exception as error:
        code = error
    for line in channel:
        given = json.loads(line)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, also within one long operation
        signal.setitimer(signal.ITIMER_PROF, limits["seconds"])
        try:
            if isinstance(code, Exception):
                raise code
            done = {"value": call(code, task["function"], given)} if task["function"] else {"value": program(code, given, null)}
        except BaseException as error:
            done = {"error": f"{type(error).__name__}: {error}"[:500]}
        signal.setitimer(signal.ITIMER_PROF, 0)
        answer(done)
        gc.collect()


if __name__ == "__main__":
    main()
