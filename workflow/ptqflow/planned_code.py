"""Digests of code, remembered between processes: every start of Snakemake and of a stage asks for the same ones. Import-light."""

import atexit
import hashlib
import json
from functools import cache
from pathlib import Path

from ptqflow import digest
from ptqflow.artifacts.atomic import write_json

STORE = Path(".ptqflow/digests.json")


class Digests:
    """`code_digest` of one state of the package; another byte in any of its files, or another file, and nothing is known.

    `store` is only a cache: deleting it, or losing an update to a concurrent writer, costs time, never truth.
    """

    def __init__(self, store: Path, root: Path = digest.ROOT) -> None:
        self.store, self.root = store, root
        self.package = self._state()
        self._known = self._load()
        self._added: dict[str, str] = {}

    def _state(self) -> str:
        files = sorted(self.root.rglob("*.py"))
        content = [(str(file.relative_to(self.root)), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def _load(self) -> dict[str, str]:
        try:
            kept = json.loads(self.store.read_text())
            return dict(kept["digests"]) if kept["package"] == self.package else {}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def of(self, *modules: str) -> str:
        """`code_digest` of these modules."""
        key = "+".join(sorted(set(modules)))
        if key not in self._known:
            self._known[key] = self._added[key] = digest.code_digest(*modules, root=self.root)
        return self._known[key]

    def save(self) -> None:
        """Write what was added, where the folder of the store is there and can be written, and nobody edited code meanwhile."""
        if self._added and self.store.parent.is_dir():
            try:
                if self._state() != self.package:
                    return
                write_json(self.store, {"package": self.package, "digests": self._load() | self._added})
            except OSError:  # a read-only working directory: only speed is lost
                return


@cache
def _of_this_process() -> Digests:
    digests = Digests(STORE.absolute())
    atexit.register(digests.save)
    return digests


def code_digest(*modules: str) -> str:
    """`modules:digest` over all that `modules` can run, of the code as this process found it (digest.py)."""
    return _of_this_process().of(*modules)
