"""Generated code gets out of the sandbox by none of the ways tried here; `-s` prints the table of docs/sandbox.md."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from checkout import REPOSITORY
from escapes import ESCAPES, Escape
from ptqflow.errors import ConfigError
from ptqflow.evaluation.sandbox import runtimes, session
from ptqflow.evaluation.sandbox.session import Limits, running, sandbox

SMALL = Limits(seconds=1, wall=4, memory=1 << 30, file=32 << 20, output=48 << 20)
SECRET = "swordfish-8261"


@pytest.fixture(scope="module")
def name() -> str:
    try:
        return sandbox().name
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What an escape would find: a server on this machine, a home with a file, a folder that can be written."""
    server = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0sandbox-{os.getpid()}")
    abstract.listen()
    home = tmp_path_factory.mktemp("home")
    (home / "secret").write_text(SECRET)
    outside = tmp_path_factory.mktemp("outside") / "escaped"
    return {
        "port": server.getsockname()[1], "abstract": f"sandbox-{os.getpid()}", "server": server, "unix": abstract,
        "home": home, "repository": REPOSITORY, "outside": outside,
    }  # fmt: skip


def filled(code: str, world: dict) -> str:
    for key in ("port", "abstract", "home", "repository", "outside"):
        code = code.replace(f"{{{key}}}", str(world[key]))
    return code


def processes() -> set[int]:
    return {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda escape: escape.name)
def test_nothing_gets_out(escape: Escape, name: str, world: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTQFLOW_SECRET", SECRET)
    code = filled(escape.program, world)
    start = time.monotonic()
    with running(code, None, 1, SMALL) as inside:
        said = inside.run("")
        child = inside._process.pid
    seconds = time.monotonic() - start
    result = said.failure or str(said.value).strip()
    print(f"\n| {escape.name} | {escape.stopped_by} | {' '.join(result.split())[:60]} | {seconds:.1f} s |", end="")
    assert "ESCAPED" not in str(said.value)
    assert said.failure or str(said.value).startswith("HELD")
    assert not world["outside"].exists()
    assert seconds < SMALL.wall + 10
    assert not Path(f"/proc/{child}").exists()


def test_what_escapes_look_for_is_there_for_those_outside(world: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code, run without a sandbox, finds what it looks for: the table would else show nothing."""
    monkeypatch.setenv("PTQFLOW_SECRET", SECRET)
    harmless = (
        "connect",
        "read the repo",
        "list HOME",
        "read the host's",
        "read secrets",
        "start another",
        "fork",
        "memory that",
    )
    tried = [escape for escape in ESCAPES if escape.name.startswith(harmless)]
    assert len(tried) == 9
    for escape in tried:
        ran = subprocess.run([sys.executable, "-c", filled(escape.program, world)], capture_output=True, text=True, timeout=60)
        assert "ESCAPED" in ran.stdout, escape.name


def test_nothing_is_left_when_the_host_ends_first(name: str) -> None:
    before = processes()
    script = (
        "import os, threading\nfrom ptqflow.evaluation.sandbox.session import running\n"
        "with running('import time; time.sleep(100)', None, 1) as s:\n"
        "    threading.Timer(1, lambda: os._exit(9)).start()\n    s.run('')\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 9
    time.sleep(1)
    left = []
    for process in processes() - before:
        try:
            left.append(Path(f"/proc/{process}/cmdline").read_text())
        except OSError:
            continue
    assert not [command for command in left if "/runner.py" in command]


def test_programs_and_functions_run_as_anywhere(name: str) -> None:
    with running("import sys\nfor line in sys.stdin: print(int(line) * 2)\nsys.exit(3)", None, 2) as inside:
        assert [inside.run(text).value for text in ("1\n2\n", "5")] == ["2\n4\n", "10\n"]
    with running("print(open(0).read(), end='')", None, 1) as inside:
        assert inside.run("a\nb").value == "a\nb"
    with running("import os\nos.write(1, os.read(0, 9))", None, 1) as inside:
        assert inside.run("raw").value == "raw"
    with running("n = 1\ndef f():\n    global n\n    n += 1\nf()\nprint(n)", None, 2) as inside:
        assert [inside.run("").value for _ in range(2)] == ["2\n", "2\n"]
    with running("class Solution:\n    def f(self, n):\n        return tuple(range(n))", "f", 2) as inside:
        assert [inside.run([n]).value for n in (0, 3)] == [[], [0, 1, 2]]
    with running("def f(n): return {n}", "f", 1) as inside:
        assert "equals no expected output" in str(inside.run([1]).failure)
    with running("def f(:", "f", 1) as inside:
        assert "SyntaxError" in str(inside.run([1]).failure)
    with running("import threading\nthreading.Thread(target=lambda: print('late')).start()", None, 1) as inside:
        assert inside.run("").value == "late\n"


def test_a_large_input_and_output_pass(name: str) -> None:
    text = "1234567\n" * 500_000
    with running("import sys\nsys.stdout.write(sys.stdin.read())", None, 1) as inside:
        assert inside.run(text).value == text


def test_sessions_side_by_side_keep_apart(name: str) -> None:
    found: dict[int, object] = {}

    def one(number: int) -> None:
        with running("print(int(input()) ** 2)", None, 1) as inside:
            found[number] = inside.run(f"{number}\n").value

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"{number**2}\n" for number in range(4)}


def test_without_a_working_sandbox_the_reason_and_the_remedy_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(runtimes, "candidates", lambda: [runtimes.bubblewrap(str(refusing))])
    with pytest.raises(
        ConfigError, match=r"only in a sandbox, and none works here: bubblewrap .*No permissions.*; install bubblewrap"
    ):
        runtimes.working(session.complaint)
    monkeypatch.setattr(runtimes, "candidates", lambda: [])
    with pytest.raises(ConfigError, match="none is installed"):
        runtimes.working(session.complaint)


def test_a_sandbox_that_is_none_is_not_used(tmp_path: Path) -> None:
    """A program that runs the runner without shutting it in is found out by the probe."""
    assert "no file of ours" in str(
        session.complaint(runtimes.Sandbox("none", [sys.executable, "-u", runtimes.inside.__file__], True))
    )
