"""`export`: a checkpoint of one form, derived from the integers and scales of all chunks alone."""

import argparse
import json
from pathlib import Path
from typing import Any

from ptqflow import paths
from ptqflow.artifacts.atomic import write_json
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.manifests import NAME, Manifest, claim, output
from ptqflow.artifacts.models import license_of
from ptqflow.artifacts.provenance import provenance, rotated_from
from ptqflow.checkpoints import registry
from ptqflow.checkpoints.card import card
from ptqflow.checkpoints.parts import as_rescued, check_parts, reasons
from ptqflow.checkpoints.schemes import check, schemes
from ptqflow.checkpoints.writer import write
from ptqflow.datamodel import Model
from ptqflow.errors import ConfigError
from ptqflow.modeling.dimensions import linear_shapes
from ptqflow.modeling.qparams import QParams
from ptqflow.modeling.shapes import check_recipe, packed_bytes, shards_of
from ptqflow.modeling.weights import Weights
from ptqflow.recipes import Recipe

SIDE_FILE = "ptqflow.json"


class Settings(Model):
    """The complete recipe, and the form of checkpoint to write."""

    recipe: Recipe
    form: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--model", type=Path, required=True, help="manifest.json of the float model")
    parser.add_argument("--notices", type=Path, help="manifest.json of its card and licence, where they were fetched apart")
    parser.add_argument("--qparams", type=Path, required=True, nargs="+", help="qparams.safetensors of every chunk, in any order")
    parser.add_argument("--output", type=output, required=True, help="manifest.json to write; the checkpoint goes beside it")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Verify that the chunks are complete and of this recipe, write the checkpoint, its side file and its manifest."""
    model, folder, recipe = args.model.parent, args.output.parent, settings.recipe
    if folder.resolve() == model.resolve():
        raise ConfigError(f"--output {args.output} would overwrite the float model; choose another folder")
    sources = {path: Manifest.read(path) for path in (args.model, args.notices) if path}
    for path, source in sources.items():
        source.verify(path.parent)
    manifest, notices = sources[args.model], (args.notices or args.model).parent
    recipe.check_source(manifest.origin, str(model))
    config, qparams = json.loads((model / "config.json").read_text()), QParams(args.qparams)
    recipe = as_rescued(qparams, recipe)
    check_recipe(recipe, config, "of --settings", str(model))
    scheme = registry.scheme(settings.form)
    check(settings.form, scheme.refusal(recipe, config), "of --settings")
    tokens = check_parts(qparams, recipe, config, manifest)

    cache = HashCache()
    inputs = {
        "model": {name: entry.sha256 for name, entry in manifest.files.items()},
        "qparams": sorted(cache.sha256(path) for path in args.qparams),
    }
    if args.notices:
        inputs["notices"] = {name: entry.sha256 for name, entry in sources[args.notices].files.items()}
    origin = provenance(
        "export", settings.model_dump(mode="json") | {"recipe": settings.recipe.dump()}, args.code or "", inputs=inputs
    )
    origin["source"] = manifest.origin.get("source")
    origin |= rotated_from(manifest.origin)
    origin |= {"license": stated} if (stated := license_of(notices)) else {}
    origin["calibration"] = tokens
    origin["calibration_set"] = next(iter(qparams.metadata.values())).get("calibration_set")
    if recipe is not settings.recipe:
        origin["rescued"] = [override.model_dump(mode="json", exclude_unset=True) for override in recipe.overrides]
    origin |= {kind: found for kind in ("fallbacks", "warnings") if (found := reasons(qparams, kind))}
    origin["qparams_bytes"] = sum(path.stat().st_size for path in args.qparams)
    weights = Weights(model)
    claim(folder, "export", paths.checkpoint("*", "*", "*.*"))
    origin |= _sizes(recipe, config, weights)
    args.output.unlink(missing_ok=True)
    layout = registry.layout(settings.form)(weights, qparams, recipe, config)
    text = card(recipe, settings.form, scheme.loading(recipe, "."), config, origin, notices)
    carried = {name: path.parent / name for path, source in sources.items() for name in source.files}
    files = write(layout, carried, text, folder)
    write_json(folder / SIDE_FILE, origin)
    Manifest.of_folder(folder, [name for name in [*files, SIDE_FILE] if name != NAME], origin).write(folder)


def _sizes(recipe: Recipe, config: dict[str, Any], weights: Weights) -> dict[str, int]:
    """`packed_bytes` and `linear_weights` of all linears of the blocks, for tables of sizes; `float_bytes`: of them unquantized.

    Linears left in high precision count as they are stored: else a recipe would look smaller for each that it leaves.
    """
    shapes, total, count, unquantized = linear_shapes(config), 0, 0, 0
    for scheme in schemes(recipe, config):
        shape = shapes[scheme.linear]
        elements = shape[0] * shape[1]
        stored = elements * weights.header(f"{scheme.prefix}.weight")[0].itemsize
        if scheme.weights is not None:
            total += packed_bytes(shape, scheme.weights, shards_of(recipe, scheme.linear), recipe.rounding.real_zero_points)
        else:
            total += stored
        unquantized += stored
        count += elements
    return {"packed_bytes": total, "linear_weights": count, "float_bytes": unquantized}
