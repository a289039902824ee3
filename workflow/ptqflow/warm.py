"""A process that has loaded the large packages and forks for each job of a run on this machine, on its CPU or a GPU.

Loading torch and transformers costs seconds of CPU, as much as a job on a small model. So the first job of a run that needs them
starts a process (`serve`) that loads them and nothing of ours, under exactly the environment variables of that job. It and the
next ones hand over (`hand_over`) their arguments and standard streams; the process forks, and its child is the job, as if it had
been started alone. Jobs with other variables (more threads: libraries read these as they are loaded) get a process of their own.
A process ends with the run; a child with the job that handed over. It is started as a file, not as a module, so that its children
alone load this package. Imports the standard library alone.
"""

import atexit
import errno
import fcntl
import gc
import hashlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO

VARIABLE = "PTQFLOW_WARM"  # the folder by which jobs find their run; `off` before a run: every job loads for itself
_LIGHT = ("numpy", "pyarrow.parquet", "pydantic")
_MODELS = (
    *_LIGHT,
    *("accelerate", "safetensors.torch", "torch", "torch._dynamo", "transformers.modeling_utils", "transformers.generation"),
    *("transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto", "transformers.masking_utils"),
)
_OF_STAGES = {
    **dict.fromkeys(("collect", "generate", "measure", "quantize", "rescue", "rotate", "export", "selftest", "verify"), _MODELS),
    **dict.fromkeys(("fetch", "tokens", "overlap", "score", "plot", "samples", "aggregate", "report"), _LIGHT),
}
_ALIVE = "alive"  # locked while the run lives
_STARTING = 120.0  # seconds that loading may take before a job loads for itself


def announce(jobs: Mapping[str, int]) -> None:
    """Let the jobs that this process starts, stage -> count, share what they load, until it ends."""
    if VARIABLE in os.environ or not _can_watch():
        return
    folder = Path(tempfile.mkdtemp(prefix="ptqflow-warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shared = {stage for stage, loads in _OF_STAGES.items() if sum(n for s, n in jobs.items() if _OF_STAGES.get(s) == loads) > 1}
    (folder / "run.json").write_text(json.dumps({"python": _python(), "stages": sorted(shared)}))
    alive = open(folder / _ALIVE, "w")  # noqa: SIM115 (held as long as this process lives)
    fcntl.flock(alive, fcntl.LOCK_EX)
    atexit.register(alive.close)
    os.environ[VARIABLE] = str(folder)


def hand_over(argv: Sequence[str]) -> None:
    """Have a stage run by the warm process of this run, and end as it ends. Returns where there is none to be had."""
    folder = os.environ.get(VARIABLE, "")
    if not argv or not os.path.isdir(folder):
        return
    with open(os.path.join(folder, "run.json")) as file:
        run = json.load(file)
    if run["python"] != _python() or argv[0] not in run["stages"]:
        return
    name = hashlib.sha256(json.dumps([sorted(os.environ.items()), _OF_STAGES[argv[0]]]).encode()).hexdigest()[:16]
    connection = _connected(folder, name, argv[0])
    if connection is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the job ends with this process
    job = json.dumps({"argv": list(argv), "folder": os.getcwd()}).encode()
    socket.send_fds(connection, [len(job).to_bytes(4, "big")], [0, 1, 2])
    connection.sendall(job)
    status = connection.recv(4)
    if not status:
        raise SystemExit(f"ptqflow {argv[0]}: the process that ran this job ended before it; run the same command again")
    code = os.waitstatus_to_exitcode(int.from_bytes(status, "big"))
    if code < 0:  # ended by a signal: so does this process
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _can_watch() -> bool:
    """Whether the system tells of a process's end by a descriptor (Linux 5.3; some sandboxes refuse it)."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def _python() -> str:
    return os.path.realpath(sys.prefix)


def _connected(folder: str, name: str, stage: str) -> socket.socket | None:
    """A connection to the process `name`, which is started where it does not run. None where it cannot be reached."""
    with open(os.path.join(folder, f"{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits until it has loaded
        if (found := _connect(folder, name)) is not None:
            return found
        command = [sys.executable, "-P", __file__, folder, name, stage]
        nowhere = subprocess.DEVNULL  # a stream of this job's would stay open after it
        process = subprocess.Popen(command, start_new_session=True, stdin=nowhere, stdout=nowhere, stderr=nowhere)
        end = time.monotonic() + _STARTING
        while process.poll() is None and time.monotonic() < end:
            if (found := _connect(folder, name)) is not None:
                return found
            time.sleep(0.02)
    return None


def _connect(folder: str, name: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        _at(folder, name, connection.connect)
    except OSError as error:
        connection.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return None
        raise
    return connection


def _at(folder: str, name: str, act: Callable[[str], None]) -> None:
    """Act on the address of a socket: through a descriptor, since an address has only 108 bytes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        act(f"/proc/self/fd/{descriptor}/{name}")
    finally:
        os.close(descriptor)


def serve(folder: str, name: str, stage: str) -> list[str] | None:
    """Load others' packages for `stage`, then fork for each job. Returns a job's arguments in its child, None at the end."""
    for module in _OF_STAGES[stage]:
        import_module(module)
    gc.collect()
    gc.freeze()  # pages that are shared stay so
    listener = socket.socket(socket.AF_UNIX)
    _at(folder, name, listener.bind)
    listener.listen(64)
    waiting: dict[int, socket.socket] = {}  # job's process -> who handed it over
    with open(os.path.join(folder, _ALIVE)) as alive, selectors.DefaultSelector() as events:
        events.register(listener, selectors.EVENT_READ)
        while not _over(alive):
            for key, _ in events.select(timeout=1.0):
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    job = _received(connection)
                    if job is None:
                        continue
                    pid = os.fork()
                    if not pid:
                        for other in (listener, connection, *waiting.values()):
                            other.close()
                        return job.taken_over()
                    job.close()
                    waiting[pid] = connection
                    events.register(connection, selectors.EVENT_READ, pid)
                    events.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                elif isinstance(key.fileobj, int):  # a job ended
                    events.unregister(key.fileobj)
                    os.close(key.fileobj)
                    _, status = os.waitpid(key.data, 0)
                    connection = waiting.pop(key.data)
                    with suppress(KeyError):
                        events.unregister(connection)
                    with suppress(OSError), connection:
                        connection.sendall(status.to_bytes(4, "big"))
                elif key.data in waiting:
                    events.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)  # who handed it over is gone
    for pid in waiting:
        os.kill(pid, signal.SIGKILL)
    return None


def _over(alive: IO[str]) -> bool:
    """Whether the process that announced the run has ended."""
    try:
        fcntl.flock(alive, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Job:
    """What was handed over: arguments, folder, descriptors of the standard streams."""

    def __init__(self, argv: list[str], folder: str, streams: Sequence[int]) -> None:
        self.argv, self.folder, self.streams = argv, folder, streams

    def taken_over(self) -> list[str]:
        """Make folder and streams this process's own; the arguments."""
        for number, stream in enumerate(self.streams):
            os.dup2(stream, number)
        self.close()
        os.chdir(self.folder)
        return self.argv

    def close(self) -> None:
        for stream in self.streams:
            os.close(stream)


def _received(connection: socket.socket) -> _Job | None:
    """What the other side hands over; None where it is gone, or says nothing for some seconds."""
    connection.settimeout(10)
    try:
        start, streams, _, _ = socket.recv_fds(connection, 4, 3)
        job = json.loads(connection.recv(int.from_bytes(start, "big"), socket.MSG_WAITALL))
        return _Job(job["argv"], job["folder"], streams)
    except (OSError, ValueError):
        connection.close()
        return None


if __name__ == "__main__" and (arguments := serve(*sys.argv[1:])) is not None:
    del os.environ[VARIABLE]
    sys.argv = ["ptqflow", *arguments]
    runpy.run_module("ptqflow", run_name="__main__", alter_sys=True)
