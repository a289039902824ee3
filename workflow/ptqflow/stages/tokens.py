"""Stage `tokens`: a calibration set, one row per window of token ids, with the source rows and the offset of each."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ptqflow.artifacts.datasets import data_files, load_rows
from ptqflow.artifacts.hashing import sha256
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.model_config import read_config
from ptqflow.artifacts.models import INDEX, description_files
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.schemas import TOKENS
from ptqflow.artifacts.tables import write_rows
from ptqflow.calibration import CalibrationSettings, documents, token_stream, window_rows, windows
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.modeling import dimensions
from ptqflow.progress import progress

UNREAD = ("README.md", "LICENSE", "generation_config.json", INDEX)  # of a model's description, what no tokenizer reads


class Settings(CalibrationSettings):
    """A calibration set (see `ptqflow.calibration`)."""


def add_arguments(parser: ArgumentParser) -> None:
    """Paths of the stage."""
    parser.add_argument("--model", type=Path, required=True, help="manifest.json of the model, whose tokenizer is used")
    parser.add_argument("--output", type=Path, required=True, help="tokens.parquet to write")


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{folder} holds no tokenizer that transformers loads ({error}); complete the model folder") from None


def run(settings: Settings, args: Namespace) -> None:
    """Draw the windows and write them."""
    manifest = Manifest.read(args.model)
    read = [name for name in description_files(manifest.files) if name not in UNREAD]
    manifest.verify(args.model.parent, read)
    config = read_config(args.model.parent)
    positions, vocabulary = dimensions.positions(config), config.get("vocab_size")
    if positions is not None and settings.sequence_length > positions:
        raise ConfigError(
            f"sequence_length {settings.sequence_length} exceeds the {positions} positions of {args.model.parent}; "
            f"use at most {positions}"
        )
    rows = load_rows(settings.source)  # before the tokenizer, whose import takes seconds
    tokenizer = _tokenizer(args.model.parent)
    items = documents(rows, settings, tokenizer)
    with progress(f"tokens {settings.source.label}", len(items), "rows") as bar:
        stream = token_stream(items, settings, tokenizer, bar.update)
    if vocabulary is not None and (largest := max(stream.tokens, default=0)) >= vocabulary:
        raise ConfigError(
            f"{args.model.parent}: the tokenizer gives token {largest}, beyond the {vocabulary} rows of the model's embedding; "
            "use the model's own tokenizer"
        )
    offsets, disjoint = windows(len(stream.tokens), settings.samples, settings.sequence_length, settings.seed)
    if not disjoint:
        print(
            f"tokens: {len(stream.tokens)} tokens hold fewer than {settings.samples} disjoint windows of "
            f"{settings.sequence_length}; windows are drawn with replacement and may overlap",
            file=sys.stderr,
        )
    files = data_files(settings.source) if settings.source.local is not None else []  # of a hub's, the revision says it
    data = {str(file): sha256(file) for file in files}
    metadata = provenance(
        "tokens",
        settings.model_dump(mode="json"),
        args.code or "",
        inputs={"model": {name: manifest.files[name].sha256 for name in read}, "data": data},
        stream_tokens=len(stream.tokens),
        stream_rows=len(stream.ids),
        mean_completion_tokens=stream.mean_completion_tokens,
        windows="disjoint" if disjoint else "with replacement",
    )
    write_rows(args.output, TOKENS, window_rows(stream, offsets, settings.sequence_length, settings.source.label), metadata)
