"""Where models and rows come from: a local file or folder, or a repository of the model hub at a pinned revision."""

import os
import re
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from ptqflow.datamodel import Model

# A repository of the model hub: org/name; of some of its oldest, the name alone.
_ON_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)


class Place(Model):
    """Exactly one of `path` (local) and `repo` (model hub).

    `repo` goes with `revision`, a commit (40 hexadecimal digits), so that a study cannot change under us.
    """

    path: str | None = None
    repo: str | None = None
    revision: str | None = None

    @field_validator("path")
    @classmethod
    def _home(cls, path: str | None) -> str | None:
        return path and os.path.expanduser(path)

    @field_validator("repo")
    @classmethod
    def _on_hub(cls, repo: str | None) -> str | None:
        if repo is not None and not _ON_HUB.fullmatch(repo):
            raise ValueError("no repository of the model hub, which is org/name; correct it, or give a local folder as path")
        return repo

    @field_validator("revision")
    @classmethod
    def _pinned(cls, revision: str | None) -> str | None:
        if revision is not None and not re.fullmatch("[0-9a-f]{40}", revision):
            raise ValueError(
                f"{revision!r} is not a commit of 40 hexadecimal digits; a branch can move, so copy the commit hash from the "
                "repository's history, or from huggingface_hub.HfApi().repo_info(repo).sha"
            )
        return revision

    @model_validator(mode="after")
    def _one_place(self) -> "Place":
        if (self.path is None) == (self.repo is None):
            raise ValueError("give exactly one of path (local) and repo (model hub)")
        if (self.repo is None) != (self.revision is None):
            raise ValueError("repo and revision go together; give the commit hash as revision")
        return self

    @property
    def local(self) -> Path | None:
        """The local file or folder; None for the hub."""
        return None if self.path is None else Path(self.path)


class Source(Place):
    """Rows of a data set, for calibration or evaluation.

    `path`: a .jsonl, .parquet or .csv file, or a folder laid out as on the hub (`<subset>/<split>-*.parquet`,
    `data/<split>-*.parquet`) or simply holding `<split>.jsonl` or `<split>.parquet`.
    `file`: a file (or glob) inside the folder or repository, where its layout is none of these.
    """

    usual_split: ClassVar[str] = "test"  # where none is named

    subset: str | None = None
    split: str | None = None
    file: str | None = None

    @field_validator("subset", "split", "file")
    @classmethod
    def _inside(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip("/.") or name.startswith("/") or ".." in name.split("/") or "\0" in name):
            raise ValueError(f"{name!r} leads out of the folder or repository; name what is inside, without leading / and ..")
        return name

    @property
    def label(self) -> str:
        """What the rows are called in artifacts: path or repo@revision, then subset and split."""
        place = self.path if self.path is not None else f"{self.repo}@{self.revision}"
        return ":".join(part for part in (place, self.subset, self.split, self.file) if part)


class CalibrationSource(Source):
    """Rows to calibrate with: of a training split, unless another is named."""

    usual_split: ClassVar[str] = "train"


Sources = Source | Annotated[list[Source], Field(min_length=1)]  # of a task: one, or several whose rows are one task


def each(sources: Sources) -> list[Source]:
    """The sources, in order."""
    return sources if isinstance(sources, list) else [sources]
