"""`rotate`: a model to quantize instead of another, of the same function, with its residual stream turned.

Every recipe and every form takes it like any model. That the function is the same is checked, in float64, and recorded in the
manifest: `exact_error` before the turned weights are rounded to the dtype that holds them, `stored_error` after; beside them
`turned_bytes`, of the weight files that were turned: a tied head becomes a matrix of its own.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
from pydantic import SerializeAsAny
from torch import Tensor

from ptqflow import paths
from ptqflow.artifacts.atomic import atomic_path, write_json
from ptqflow.artifacts.manifests import Manifest, claim, output
from ptqflow.artifacts.models import files_in
from ptqflow.artifacts.provenance import provenance
from ptqflow.by_name import ByName, method
from ptqflow.datamodel import Model
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.method import Rotation
from ptqflow.modeling.anatomy import EMBEDDING, architecture_of
from ptqflow.modeling.blocks import Blocks
from ptqflow.modeling.rotation import HEAD, Rotated, logits
from ptqflow.modeling.weights import Weights, index_name, save_safetensors
from ptqflow.progress import progress

EXACT_LIMIT = 1e-6  # relative error of the logits in float64; what computes in float32 inside a block leaves some 1e-8
_SEQUENCES, _TOKENS, _HEAD_ROWS = 2, 64, 1024  # of the check


class Settings(Model):
    """What turns the residual stream."""

    rotation: Annotated[SerializeAsAny[Rotation], ByName("rotation")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--model", type=Path, required=True, help="manifest.json of the float model")
    parser.add_argument("--output", type=output, required=True, help="manifest.json to write; the turned model goes beside it")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Verify the model, write the turned one shard by shard, check its function, write its manifest."""
    source, folder = args.model.parent, args.output.parent
    if folder.resolve() == source.resolve():
        raise ConfigError(f"--output {args.output} would overwrite the float model; choose another folder")
    if settings.rotation.name == "none":
        raise ConfigError("rotation none turns nothing; give the name of a rotation")
    manifest = Manifest.read(args.model)
    manifest.verify(source)
    config = json.loads((source / "config.json").read_text())
    architecture_of(config)
    weights = Weights(source)
    q = method("rotation", settings.rotation.name).rotation(int(config["hidden_size"]), settings.rotation)
    rotated = Rotated(weights, config, q)

    claim(folder, "rotate", paths.rotated("*", "*"))
    for stale in files_in(folder):
        (folder / stale).unlink()
    file_of = dict(weights.file_of) | {HEAD: weights.file_of.get(HEAD, weights.file_of[EMBEDDING])}
    with progress("rotate", len(weights.files()), "shards") as bar:
        for shard in weights.files():
            names = sorted(name for name, file in file_of.items() if file == shard)
            save_safetensors(folder / shard, {name: rotated[name] for name in names}, {"format": "pt"})
            bar.update()
    documents = {"config.json": config | {"tie_word_embeddings": False}}
    if (source / index_name()).is_file():
        total = sum((folder / shard).stat().st_size for shard in weights.files())
        documents[index_name()] = {"metadata": {"total_size": total}, "weight_map": file_of}
    for name, document in documents.items():
        write_json(folder / name, document)
    carried = [name for name in manifest.files if name not in documents and name not in weights.files()]
    for name in carried:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(source / name, temporary)

    exact_error, stored_error = errors(source, folder, rotated)
    if not exact_error <= EXACT_LIMIT:
        raise ArtifactError(
            f"{source}: the logits of the turned model are off by {exact_error:.1e} (relative, in float64): this model reads or "
            "writes its residual stream in a way that the rotation does not know; use rotation none"
        )
    dump = settings.model_dump(mode="json")
    inputs = {"model": {name: entry.sha256 for name, entry in manifest.files.items()}}
    origin = provenance("rotate", dump, args.code or "", inputs=inputs)
    origin |= dump | {"source": manifest.origin.get("source"), "exact_error": exact_error, "stored_error": stored_error}
    origin["turned_bytes"] = sum(manifest.files[shard].bytes for shard in weights.files())
    Manifest.of_folder(folder, [*carried, *documents, *weights.files()], origin).write(folder)


def errors(source: Path, folder: Path, rotated: Rotated) -> tuple[float, float]:
    """Relative errors of the logits of the turned model in float64 and as stored in `folder`, on random tokens."""
    random = torch.Generator().manual_seed(0)
    blocks, stored = Blocks(source, torch.device("cpu"), torch.float64), Weights(folder)
    vocabulary = blocks.weights.header(EMBEDDING)[1][0]
    tokens = torch.randint(vocabulary, (_SEQUENCES, _TOKENS), generator=random)
    rows = torch.randperm(vocabulary, generator=random)[:_HEAD_ROWS]
    head = HEAD if HEAD in blocks.weights.file_of else EMBEDDING

    def of(embedding: Tensor, rows_of_head: Tensor, tensor_of: Callable[[str], Tensor]) -> Tensor:
        return logits(blocks, embedding.view(*tokens.shape, -1), rows_of_head, tensor_of)

    ids = tokens.flatten()
    expected = of(blocks.weights[EMBEDDING][ids], blocks.weights[head][rows], blocks.weights.__getitem__)
    exact = of(rotated.exact(EMBEDDING, ids), rotated.exact(HEAD, rows), rotated.exact)
    found = of(stored[EMBEDDING][ids], stored[HEAD][rows], stored.__getitem__)

    def error(turned: Tensor) -> float:
        return ((turned - expected).norm() / expected.norm().clamp(min=torch.finfo(torch.float64).tiny)).item()

    return error(exact), error(found)
