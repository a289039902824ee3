"""Progress of long work: a bar on a terminal, a plain log line every few seconds elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 5.0


T = TypeVar("T")


def timed(results: Iterator[T]) -> Iterator[tuple[T, float]]:
    """Each result with the wall seconds that it took to come; what its reader does with it is not counted."""
    start = time.perf_counter()
    for result in results:
        yield result, time.perf_counter() - start
        start = time.perf_counter()


class Progress(Protocol):
    """What long work reports to."""

    def update(self, n: float = 1) -> object:
        """`n` more units are done."""


class _Lines:
    """Log lines `name: done/total unit, elapsed` at most every few seconds, and one at the end."""

    def __init__(self, name: str, total: float, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0.0
        self.start = self.last = time.monotonic()

    def update(self, n: float = 1) -> None:
        self.done += n
        if time.monotonic() - self.last >= _SECONDS_BETWEEN_LINES:
            self.report()

    def report(self) -> None:
        self.last = time.monotonic()
        print(
            f"{self.name}: {self.done:g}/{self.total:g} {self.unit}, {self.last - self.start:.1f} s", file=sys.stderr, flush=True
        )


@contextmanager
def progress(name: str, total: float, unit: str) -> Iterator[Progress]:
    """Yield an object with `update(n)`; `total` and `n` count `unit`s (blocks, tokens, bytes, ...)."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=name, unit=f" {unit}", unit_scale=total > 100_000) as bar:
            yield bar
    else:
        lines = _Lines(name, total, unit)
        yield lines
        lines.report()
