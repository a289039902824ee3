"""A model hub at a pinned revision: the list of files with their hashes, and downloads that a killed process can resume.

`huggingface_hub.snapshot_download` names its temporaries at random, so that a killed download starts again from nothing;
here a partial file has a stable name and goes on where it ended (HTTP Range). Its content is checked by the caller.
"""

import io
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_session, hf_hub_download, hf_hub_url
from huggingface_hub import errors as hub
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, logging, validate_repo_id
from tqdm import tqdm

from ptqflow.artifacts.models import TEMPLATES
from ptqflow.errors import ArtifactError, ConfigError, PtqflowError

_NAME = re.compile(rf"(?:{TEMPLATES}/)?[A-Za-z0-9_][A-Za-z0-9._+ -]*")  # a file of the top, or a chat template

_LISTING_BYTES = 64 << 20
_LARGEST = 1 << 50  # bytes of a file
_SECONDS = 30  # without an answer, or the next part of one
_USERINFO = re.compile(r"//[^/\s'\"]*@")  # user and password of an address


@dataclass(frozen=True)
class HubFile:
    """One file: its size in bytes, and its sha256 (large files) or else its git blob id."""

    bytes: int
    sha256: str | None
    blob: str | None

    def __post_init__(self) -> None:
        """Raises ValueError for what is no size or no hash: hashes become names of files."""
        hashes = [(self.sha256, 64), (self.blob, 40)]
        sound = all(value is None or re.fullmatch(f"[0-9a-f]{{{digits}}}", str(value)) for value, digits in hashes)
        if (
            not sound
            or type(self.bytes) is not int
            or not 0 <= self.bytes <= _LARGEST
            or (self.sha256 is None and self.blob is None)
        ):
            raise ValueError(f"size {self.bytes!r}, sha256 {self.sha256!r}, blob {self.blob!r}")


def list_files(repo: str, revision: str) -> tuple[dict[str, HubFile], list[str]]:
    """The files of `repo` at commit `revision`: top-level ones and chat templates, and the names of all others.

    Raises ConfigError with the remedy when the hub refuses, or answers what is no list of files.
    """
    with explained(f"model {repo}@{revision}"):
        entries = [(str(entry["rfilename"]), entry) for entry in json.loads(_answer(repo, revision))["siblings"]]
    files = {}
    for name, entry in entries:
        if _NAME.fullmatch(name):
            try:
                files[name] = HubFile(entry.get("size"), (entry.get("lfs") or {}).get("sha256"), entry.get("blobId"))
            except (ValueError, TypeError, AttributeError) as error:
                raise ConfigError(
                    f"model {repo}@{revision}: the hub states no size and hash of {name} ({str(error)[:200]}); check HF_ENDPOINT"
                ) from None
    return files, sorted(name for name, _ in entries if name not in files)


def _answer(repo: str, revision: str) -> bytes:
    """What the hub says of a repository, of bounded length. Raises huggingface_hub's errors; ValueError for a longer answer."""
    validate_repo_id(repo)
    address = f"{constants.ENDPOINT}/api/models/{repo}/revision/{revision}"
    with get_session().stream("GET", address, headers=build_hf_headers(), params={"blobs": True}, timeout=_SECONDS) as response:
        if response.is_error:
            response.read()
        hf_raise_for_status(response)
        body = bytearray()
        for part in response.iter_bytes():
            body += part
            if len(body) > _LISTING_BYTES:
                raise ValueError("longer than any list of files")
    return bytes(body)


def download(repo: str, revision: str, name: str, size: int, partial: Path, report: Callable[[int], object]) -> None:
    """Write file `name` of `size` bytes to `partial`, appending to what is there. `report` receives bytes as they come."""
    done = partial.stat().st_size if partial.exists() else 0
    if done > size:
        partial.unlink()
        done = 0
    report(done)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # ranges of the file, not of its compressed form
    with _Reporting(partial, size, report) as file, explained(f"model {repo}@{revision}"):
        http_get(
            hf_hub_url(repo, name, revision=revision),
            file,
            resume_size=done,
            headers=headers,
            expected_size=size,
            displayed_filename=name,
            tqdm_class=_Silent,
        )


class _Reporting(io.FileIO):
    """A file open for appending that reports the bytes written to it, and refuses more than `size` in all."""

    def __init__(self, path: Path, size: int, report: Callable[[int], object]) -> None:
        super().__init__(path, "ab")
        self._size, self._report = size, report

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if self.tell() + len(view) > self._size:
            os.unlink(self.name)
            raise ArtifactError(f"{self.name}: the hub sends more than the {self._size} bytes that it stated; check HF_ENDPOINT")
        done = 0
        while done < len(view):  # a raw write may be short
            done += super().write(view[done:])
        self._report(done)
        return done


class _Silent(tqdm):
    """No bar of the hub's own: progress is reported in one place."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("name", None)
        super().__init__(*args, **{**kwargs, "disable": True})


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the hub's errors about `what` into one sentence with a remedy. Errors of the local disk pass as they are.

    Nothing else is said meanwhile: warnings of the library hold the hub's address, which may hold a password.
    """
    logging.set_verbosity_error()
    try:
        yield
    except hub.GatedRepoError:
        raise ConfigError(f"{what} is gated; accept its terms on the hub's page and set HF_TOKEN to your token") from None
    except hub.RevisionNotFoundError:
        raise ConfigError(f"{what}: the hub does not know this revision; copy a commit hash from its history") from None
    except hub.RepositoryNotFoundError:
        raise ConfigError(f"{what}: the hub has no such repository; correct repo, or set HF_TOKEN if it is private") from None
    except hub.OfflineModeIsEnabled:
        raise ConfigError(f"{what} is not here and HF_HUB_OFFLINE is set; unset it, or use path with a copy") from None
    except hub.HFValidationError as error:
        raise ConfigError(f"{what}: {error}; correct repo") from None
    except (hub.HTTPError, OSError) as error:
        if getattr(error, "errno", None) is not None and not isinstance(error, ConnectionError):
            raise
        detail = _USERINFO.sub("//", str(error)).strip().splitlines()
        raise ConfigError(
            f"{what}: the hub cannot be reached or broke off ({type(error).__name__}: {detail[0] if detail else 'no detail'}); "
            "run again to resume, set HF_ENDPOINT to a mirror, or download it elsewhere and use path"
        ) from None
    except (PtqflowError, MemoryError):
        raise
    except Exception as error:  # HTML of a login page, an address that is none
        raise ConfigError(
            f"{what}: the hub answers what is no list of files ({type(error).__name__}); check HF_ENDPOINT, and that no proxy "
            "answers in its place"
        ) from None


def commit(repo: str, revision: str, kind: str) -> str:
    """The commit that a branch or tag of a model or data set stands for now. Raises ConfigError when the hub refuses."""
    with explained(f"{kind} {repo}@{revision}"):
        found = HfApi().repo_info(repo, revision=revision, repo_type=kind).sha
    if not re.fullmatch("[0-9a-f]{40}", str(found)):
        raise ConfigError(f"{kind} {repo}@{revision}: the hub states no commit; check HF_ENDPOINT, and that no proxy answers")
    return str(found)


def small_file(repo: str, revision: str, name: str) -> Path:
    """A small file of a model at a commit, in huggingface_hub's cache. Raises ConfigError where it is not there."""
    with explained(f"model {repo}@{revision}"):
        try:
            return Path(hf_hub_download(repo, name, revision=revision))
        except hub.EntryNotFoundError:
            raise ConfigError(f"model {repo}@{revision} has no {name}; give the repository of a transformers model") from None
