"""A model as a user names it: a local folder, or `org/name[@revision]` on the hub, where a branch is resolved to its commit."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptqflow.artifacts.model_config import read_config
from ptqflow.artifacts.models import has_chat_template
from ptqflow.errors import ConfigError

_COMMIT = re.compile("[0-9a-f]{40}")
_ON_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Located:
    """`source`: as `models.NAME.source` of a configuration; `config`: its config.json; `name`: fit to be a folder's."""

    source: dict[str, str]
    config: dict[str, Any]
    name: str

    @property
    def speaks(self) -> bool:
        """Whether it has a chat template; a hub model may."""
        return "path" not in self.source or has_chat_template(Path(self.source["path"]))

    @property
    def entry(self) -> dict[str, Any]:
        """The entry of `models` in a configuration."""
        if "path" in self.source:
            return {"source": self.source}
        return {
            "source": self.source,
            "layers": self.config["num_hidden_layers"],
            "model_type": self.config["model_type"],
        }


def located(model: str) -> Located:
    """Find a model and read its config.json; of a hub model, nothing else is downloaded."""
    folder = Path(model).expanduser()
    if folder.exists():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{model} has no config.json; name the folder of a transformers model")
        return Located({"path": str(folder.resolve())}, read_config(folder), named(folder.resolve().name))
    repo, revision = on_hub(model, "model")
    return Located({"repo": repo, "revision": revision}, _config(repo, revision), named(repo.rpartition("/")[2]))


def on_hub(text: str, kind: str) -> tuple[str, str]:
    """Repository and commit of `org/name[@revision]`. Raises ConfigError for what is neither on the hub nor here."""
    repo, _, revision = text.partition("@")
    if not _ON_HUB.fullmatch(repo):
        raise ConfigError(
            f"{text} is no folder or file here, and no {kind} of the hub (org/name or org/name@revision); correct it"
        )
    if _COMMIT.fullmatch(revision):
        return repo, revision
    from ptqflow.artifacts import hub

    return repo, hub.commit(repo, revision or "main", kind)


def _config(repo: str, revision: str) -> dict[str, Any]:
    from ptqflow.artifacts import hub

    return read_config(hub.small_file(repo, revision, "config.json").parent)


def named(text: str) -> str:
    """A name of a configuration (letters, digits, - and _) that is like `text`."""
    return re.sub("[^A-Za-z0-9_-]+", "-", text).strip("-_")[:100] or "model"
