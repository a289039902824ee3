"""Stage `fetch`: a model's files in one folder, each verified, with a manifest. Nothing else of the study touches the source.

`--part` takes what is computed with, or what only travels with checkpoints: an edited README quantizes nothing again.

The folder belongs to this stage: `.fetch/` in it marks that, and keeps partial downloads and the hub's list of files, so that a
killed run goes on where it ended and a finished one needs no network.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ptqflow.artifacts.atomic import sync, write_json
from ptqflow.artifacts.hashing import HashCache, sha256
from ptqflow.artifacts.manifests import FileEntry, Manifest, claim, mark, output
from ptqflow.artifacts.model_config import read_config
from ptqflow.artifacts.models import (
    Part,
    check_description,
    description_files,
    files_in,
    license_of,
    of_part,
    source_files,
    weight_files,
)
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.modeling.tensors import check_model, stated_tensors
from ptqflow.progress import progress
from ptqflow.sources import Place

if TYPE_CHECKING:
    from ptqflow.artifacts.hub import HubFile

STATE = mark("fetch")
Report = Callable[[int], object]


class Settings(Place):
    """Where a model comes from: a local folder, or a repository of the model hub at a commit."""


def add_arguments(parser: ArgumentParser) -> None:
    """Paths of the stage."""
    parser.add_argument("--output", type=output, required=True, help="manifest.json of the model folder to fill; written last")
    parser.add_argument(
        "--part", choices=get_args(Part), help="fetch the card and licence alone, or all but these (default: all)"
    )


@dataclass(frozen=True)
class Wanted:
    """A file to obtain: size in bytes, sha256 or git blob id of its content, and how to write it to a (partial) path."""

    bytes: int
    sha256: str | None
    blob: str | None
    obtain: Callable[[Path, Report], None]

    @property
    def key(self) -> str:
        """What identifies the content, in the name of its partial file."""
        return self.sha256 or str(self.blob)

    def verified(self, path: Path, report: Report) -> str | None:
        """sha256 of `path` when it is the wanted content, else None."""
        if not path.is_file() or path.stat().st_size != self.bytes:
            return None
        found = sha256(path, report)
        same = found == self.sha256 if self.sha256 else git_blob(path) == self.blob
        return found if same else None


def git_blob(path: Path) -> str:
    """Git's name of a file's content: sha1 of `blob <bytes>`, a zero byte, and the content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def run(settings: Settings, args: Namespace) -> None:
    """Fill the folder of `args.output` and write its manifest."""
    folder = args.output.parent
    claim(folder, "fetch")
    args.output.unlink(missing_ok=True)  # no manifest while the files change
    if settings.path is not None:
        source = {"path": Path(settings.path).resolve().name}  # a moved folder is the same model
        files = _from_folder(folder, Path(settings.path), args.part)
    else:
        assert settings.repo is not None
        assert settings.revision is not None
        files, source = (
            _from_hub(folder, settings.repo, settings.revision, args.part),
            {"repo": settings.repo, "revision": settings.revision},
        )
    _remove_others(folder, files)
    if args.part != "notices":
        check_description(folder)
        check_model(folder, weight_files(folder, files), values=True)
    license_name = license_of(folder)
    origin = {"source": source} | ({"license": license_name} if license_name else {})
    Manifest(files=dict(sorted(files.items())), origin=origin).write(folder)


def _from_folder(folder: Path, source: Path, part: Part | None) -> dict[str, FileEntry]:
    if folder.resolve() == source.resolve():
        raise ConfigError(f"--output lies in the source folder {source}; give another folder")
    cache = HashCache()

    def wanted(name: str) -> Wanted:
        origin = source / name
        return Wanted(origin.stat().st_size, cache.sha256(origin), None, lambda partial, report: _copy(origin, partial, report))

    names = source_files(source)
    if part != "notices":
        _say_left((path.name for path in source.iterdir()), names)
    return _fill(folder, {name: wanted(name) for name in of_part(names, part)})


def _say_left(names: Iterable[str], taken: Iterable[str]) -> None:
    """Name the files and folders that stay behind."""
    tops = {name.split("/")[0] for name in names} - {name.split("/")[0] for name in taken}
    if left := sorted(name for name in tops if not name.startswith(".")):
        print(f"fetch: left behind, since nothing reads it: {', '.join(map(ascii, left))[:2000]}", file=sys.stderr)


def _copy(source: Path, partial: Path, report: Report) -> None:
    with source.open("rb") as reader, partial.open("wb") as writer:
        while block := reader.read(1 << 22):
            writer.write(block)
            report(len(block))


def _from_hub(folder: Path, repo: str, revision: str, part: Part | None) -> dict[str, FileEntry]:
    from ptqflow.artifacts import hub

    listed, others = _listing(folder, repo, revision)

    def wanted(name: str) -> Wanted:
        file = listed[name]
        return Wanted(
            *(file.bytes, file.sha256, file.blob),
            lambda partial, report: hub.download(repo, revision, name, file.bytes, partial, report),
        )

    if "config.json" not in listed:
        raise ConfigError(f"model {repo}@{revision} has no config.json; give the repository of a transformers model")
    # What describes the model comes first: it may be refused before its weights are downloaded.
    files = _fill(folder, {name: wanted(name) for name in of_part(description_files(listed), part)})
    if part == "notices":
        return files
    check_description(folder, listed)
    stated_tensors(read_config(folder))
    weights = weight_files(folder, listed)
    if "model.safetensors" in weights:
        files.pop("model.safetensors.index.json", None)
    _say_left([*listed, *others], [*description_files(listed), *weights])
    return files | _fill(folder, {name: wanted(name) for name in weights})


def _listing(folder: Path, repo: str, revision: str) -> tuple[dict[str, "HubFile"], list[str]]:
    """The hub's list of files, and names of others; a commit never changes, so it is asked once and kept."""
    from ptqflow.artifacts import hub

    kept = folder / STATE / f"{repo.replace('/', '--')}@{revision}.json"
    try:
        known = json.loads(kept.read_text())
        return {name: hub.HubFile(**entry) for name, entry in known["files"].items()}, list(known["others"])
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):  # not there yet, or cut off
        files, others = hub.list_files(repo, revision)
        write_json(kept, {"files": {name: asdict(entry) for name, entry in files.items()}, "others": others})
        return files, others


def _fill(folder: Path, wanted: Mapping[str, Wanted]) -> dict[str, FileEntry]:
    """Obtain every wanted file that is not yet in `folder` with the right content. Returns the manifest's entries."""
    total = sum(file.bytes for file in wanted.values())
    _check_space(folder, wanted)
    files = {}
    with progress(f"fetch {folder.name}", 2 * total, "bytes transferred and verified") as bar:
        for name, file in wanted.items():
            target, partial = folder / name, folder / STATE / f"{file.key}.partial"
            found = file.verified(target, bar.update)
            if found is not None:
                bar.update(file.bytes)
            else:
                file.obtain(partial, bar.update)
                found = file.verified(partial, bar.update)
                if found is None:
                    partial.unlink()
                    raise ArtifactError(
                        f"{name} arrived with other content than its source states (hash or size differ); it is removed: "
                        "run again to fetch it anew"
                    )
                sync(partial)
                target.parent.mkdir(exist_ok=True)
                os.replace(partial, target)
            files[name] = FileEntry(bytes=file.bytes, sha256=found)
    sync(folder)
    return files


def _check_space(folder: Path, wanted: Mapping[str, Wanted]) -> None:
    """Refuse at once what the disk cannot hold, rather than after hours of download."""
    here = [folder / name for name in wanted] + [folder / STATE / f"{file.key}.partial" for file in wanted.values()]
    missing = sum(file.bytes for file in wanted.values()) - sum(path.stat().st_size for path in here if path.is_file())
    if missing > (free := shutil.disk_usage(folder).free):
        raise OSError(errno.ENOSPC, f"{missing} bytes are needed and {free} are free", str(folder))


def _remove_others(folder: Path, files: Iterable[str]) -> None:
    """Remove what an earlier source left here: transformers would load a stale model.safetensors before the index's shards."""
    for name in set(files_in(folder)) - set(files):
        (folder / name).unlink()
    for partial in (folder / STATE).glob("*.partial"):
        partial.unlink()
