"""What the operating system refused (memory, permission, disk), told apart from what is wrong with a file."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from ptqflow.errors import ArtifactError, ConfigError

_MEMORY = re.compile(
    r"(can ?not|can't|could not|unable to|failed to) (allocate|map)|out of memory|not enough memory|bad_alloc|"
    r"can't start new thread|failed to launch worker thread|resource temporarily unavailable",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\(os error (\d+)\)")  # as libraries written in Rust tell what they were refused


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, of the process or of a device, in whatever words a library says so."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or bool(_MEMORY.search(str(error)))
    )


def refused(error: BaseException) -> BaseException | None:
    """The MemoryError or OSError (with its number) that an error of a library stands for; None for any other error."""
    if is_out_of_memory(error):
        return error if isinstance(error, MemoryError) else MemoryError(str(error))
    if isinstance(error, OSError) and error.errno is not None:
        return error
    if number := _NUMBER.search(str(error)):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    return None


@contextmanager
def reading(path: str | os.PathLike[str], what: str, remedy: str) -> Iterator[None]:
    """Whatever a library says of the file at `path` becomes an ArtifactError: it is not `what`; `remedy`.

    But what the system refuses, which is no fault of the file, is raised as it is: nobody should delete a file that is whole.
    """
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        if (refusal := refused(error)) is None:
            raise ArtifactError(
                f"{path} is not {what} ({' '.join(str(error).split()) or type(error).__name__}); {remedy}"
            ) from None
        if isinstance(refusal, OSError) and refusal.filename is None:
            refusal.filename = str(path)
        raise refusal from None


_NOTES = 2**20  # bytes: more than Snakemake notes of a plan


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Raise ConfigError where nothing can be written into a study's folder: even a plan is noted there."""
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(_NOTES))
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT):
            raise ConfigError(
                f"{Path(folder).resolve()} cannot be written ({os.strerror(error.errno)}), and a study is planned and run in its "
                "folder; free space or make it writable, or copy the study to a folder that is"
            ) from None


def machine_memory() -> int:
    """Bytes of memory that processes of this machine can have: the machine's, or less where a control group allows less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            total = min(total, int(file.read()))
    return total
