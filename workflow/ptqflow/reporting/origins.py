"""Whether the files of a study speak of the checkpoints beside which its tables show them, and were asked the same things.

Raises ArtifactError naming the file: a table of numbers from several origins would look like any other.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.provenance import refuse_others
from ptqflow.errors import ArtifactError
from ptqflow.recipes import Recipe
from ptqflow.reporting.variants import BASELINE, Chunk, Collected, Scores, Variant

Checkpoints = Mapping[Variant, tuple[Path, Manifest]]
Record = Mapping[str, Any]


def of_checkpoint(entry: Variant, path: Path, made: Record, checkpoints: Checkpoints) -> None:
    """Refuse what was not made from the checkpoint of its variant. `made`: what the file says of how it was made."""
    if (found := checkpoints.get(entry.variant)) is not None:
        asked = {"checkpoint": HashCache().sha256(found[0])}
        refuse_others(path, made, asked, f"make it again from the checkpoint of {entry.variant}")


def of_model(entry: Variant, path: Path, made: Record, checkpoints: Checkpoints) -> None:
    """Refuse what was not made from the float model of the same name, or from that model rotated."""
    made = {"inputs": {"model": made["rotated_from"]}} if "rotated_from" in made else made
    if (found := checkpoints.get(entry.baseline.variant)) is not None:
        asked = {"model": {name: file.sha256 for name, file in found[1].files.items()}}
        refuse_others(path, made, asked, f"make it again from model {entry.model}")


def of_chunk(chunk: Chunk, path: Path, made: Record, checkpoints: Checkpoints) -> None:
    """Refuse diagnostics or losses of another model, recipe or calibration than the recipe's checkpoint is of."""
    variant = Variant(platform=chunk.platform, model=chunk.model, recipe=chunk.recipe, form="fake")
    of_model(variant, path, made, checkpoints)
    if (found := checkpoints.get(variant)) is None:
        return
    origin, settings = found[1].origin, made["settings"]
    recipe = Recipe.model_validate(origin["settings"]["recipe"]).for_layers(range(*settings["layers"])).dump()
    if settings["recipe"] != recipe or settings["chunk"] != chunk.chunk:
        raise ArtifactError(f"{path} is of another recipe or chunk than {chunk}; quantize it again")
    refuse_others(path, made, {"tokens": origin["calibration"]}, f"quantize {chunk} again with its calibration")


def of_collected(collected: Collected, path: Path, made: Record, checkpoints: Checkpoints) -> None:
    """Refuse statistics of another model or calibration than the checkpoints of the recipes that read them are of."""
    for recipe in collected.recipes:
        variant = Variant(platform=collected.platform, model=collected.model, recipe=recipe, form="fake")
        if (found := checkpoints.get(variant)) is not None:
            origin = found[1].origin
            asked = {"model": origin["inputs"]["model"], "tokens": origin["calibration"]}
            refuse_others(path, made, asked, f"collect {collected} again")


def asked_alike(scores: Sequence[tuple[Scores, Path, Record]]) -> None:
    """Refuse files of one model and task whose data, protocol or metric differ: their scores cannot be compared."""
    first: dict[tuple[str, str], tuple[Path, dict[str, str]]] = {}
    for entry, path, metadata in scores:
        generated = metadata.get("generated", {})
        settings = generated.get("settings", {})
        data = sorted(digest for name, digest in generated.get("inputs", {}).items() if name != "checkpoint")
        here = {"data": data, "protocol": settings.get("protocol"), "benchmark": settings.get("benchmark")}
        here |= {"scoring": metadata.get("settings")}
        record = {name: json.dumps(value, sort_keys=True) for name, value in here.items()}
        place, other = first.setdefault((entry.model, entry.task), (path, record))
        if differ := [name for name in record if record[name] != other[name]]:
            raise ArtifactError(
                f"{path}: task {entry.task} of {entry.variant} was asked with another {', another '.join(differ)} than {place}; "
                "generate and score both again"
            )
        if entry.batch_size is not None and settings.get("batch_size") != entry.batch_size:
            raise ArtifactError(f"{path} was asked in batches of {settings.get('batch_size')}, where {entry.batch_size} is told")
        said = settings.get("task"), settings.get("engine"), settings.get("seed")
        if generated and said != (entry.task, entry.engine, entry.seed):
            wanted = f"task {entry.task}, engine {entry.engine}, seed {entry.seed}"
            raise ArtifactError(f"{path} holds task {said[0]}, engine {said[1]}, seed {said[2]}, where {wanted} is told")


def of_one_study(checkpoints: Checkpoints) -> None:
    """Every checkpoint is of the float model of its name."""
    for variant, (path, manifest) in checkpoints.items():
        if variant.recipe != BASELINE:
            of_model(variant, path, manifest.origin, checkpoints)
