"""`manifest.json`: the names, sizes and sha256 of a folder's files. Rules depend on it instead of on folders or shards."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ptqflow.artifacts.atomic import write_json
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.models import strays
from ptqflow.errors import ArtifactError, ConfigError

NAME = "manifest.json"


def output(text: str) -> Path:
    """The option `--output` of a stage that writes a manifest, whose name readers know. Raises ConfigError for another name."""
    if Path(text).name != NAME:
        raise ConfigError(f"--output {text}: the file must be called {NAME}")
    return Path(text)


def mark(stage: str) -> str:
    """Name of the folder inside a stage's output that says whose it is."""
    return f".{stage}"


def claim(folder: Path, stage: str, of_study: str | None = None) -> None:
    """Make a stage's folder, or go on in one that it made: the folder `mark` in it says so.

    `of_study`: where a study has such manifests (a pattern); older versions left no mark there. Raises ConfigError for any other
    that is not empty: a stage removes what it does not write, and loaders read what lies there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / mark(stage)
    known = own.is_dir() or (of_study is not None and (folder / NAME).match(of_study))
    if not known and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds files that {stage} did not put there; give an empty folder")
    own.mkdir(exist_ok=True)


class FileEntry(BaseModel):
    """One file: its size in bytes and the sha256 of its content."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a folder holds and where it came from. `origin` is free JSON: settings, hashes of inputs, versions."""

    model_config = ConfigDict(extra="forbid")
    files: dict[str, FileEntry]
    origin: dict[str, Any] = {}

    @classmethod
    def of_folder(cls, folder: Path, names: Iterable[str], origin: dict[str, Any]) -> "Manifest":
        """Hash `names` (relative paths) in `folder`."""
        cache = HashCache()
        files = {
            name: FileEntry(bytes=(folder / name).stat().st_size, sha256=cache.sha256(folder / name)) for name in sorted(names)
        }
        return cls(files=files, origin=origin)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Manifest":
        """Read a manifest; `ArtifactError` when it is missing or not one."""
        try:
            return cls.model_validate(json.loads(Path(path).read_text()))
        except FileNotFoundError:
            raise ArtifactError(f"{path} does not exist; run the stage that makes it first") from None
        except ValueError as error:
            raise ArtifactError(f"{path} is not a manifest ({error}); delete it and run again") from None

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`, last of all files, atomically."""
        write_json(folder / NAME, self.model_dump())

    def verify(self, folder: Path, names: Iterable[str] | None = None) -> None:
        """Refuse missing, truncated or changed files (`names`, or all), and with all those that a loader would read beside them.

        Raises ArtifactError naming the file.
        """
        cache = HashCache()
        if names is None and (found := strays(folder, {*self.files, NAME})):
            raise ArtifactError(f"{folder / found[0]} is not listed in {folder / NAME}, and loaders would read it; remove it")
        for name in sorted(names if names is not None else self.files):
            if name not in self.files:
                raise ArtifactError(f"{folder / name} is not listed in {folder / NAME}")
            path, entry = folder / name, self.files[name]
            if not path.is_file():
                raise ArtifactError(f"{path} is missing; delete {folder / NAME} and run again")
            if path.stat().st_size != entry.bytes:
                raise ArtifactError(
                    f"{path} has {path.stat().st_size} bytes, {entry.bytes} expected (truncated?); "
                    f"delete {folder / NAME} and run again"
                )
            if cache.sha256(path) != entry.sha256:
                raise ArtifactError(
                    f"{path} changed since its manifest was written (sha256 differs); delete {folder / NAME} and run again"
                )
