"""Calibration sequences as the stage `tokens` wrote them."""

import math
import os
from typing import Any

import torch
from torch import Tensor

from ptqflow.artifacts import schemas
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.provenance import refuse_others
from ptqflow.artifacts.tables import read_metadata, read_table
from ptqflow.errors import ArtifactError


def read_tokens(path: str | os.PathLike[str], vocabulary: int, enough: int | None = None) -> Tensor:
    """Token ids [sequences, tokens]; only the first sequences, which hold `enough` tokens, if that is given.

    Raises ArtifactError unless all sequences are equally long, of ids below `vocabulary`.
    """
    rows = read_table(path, schemas.TOKENS, ["tokens"]).column("tokens").to_pylist()
    if not rows or len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ArtifactError(f"{path}: sequences must be there and of one length; run tokens again")
    tokens = torch.tensor(rows)
    if int(tokens.max()) >= vocabulary:
        raise ArtifactError(f"{path}: token {int(tokens.max())} is beyond the vocabulary; run tokens with this model")
    return tokens if enough is None else tokens[: math.ceil(enough / tokens.shape[1])]


def tokens_are_of(path: str | os.PathLike[str], model: Manifest) -> None:
    """Refuse sequences that the stage `tokens` made with another model's tokenizer. Sequences of another maker say nothing."""
    metadata = read_metadata(path)
    if metadata:
        asked = {"model": {name: entry.sha256 for name, entry in model.files.items()}}
        refuse_others(path, metadata, asked, "run tokens again with this model")


def calibration_set(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the sequences at `path` were drawn from and how: settings, and sha256 of the local data by path."""
    metadata = read_metadata(path)
    return {"settings": metadata.get("settings"), "data": metadata.get("inputs", {}).get("data", {})}
