"""`quantize`: one chunk of decoder blocks by a recipe. Loads only its own blocks and the hidden states that enter them."""

import argparse
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ptqflow.artifacts import schemas
from ptqflow.artifacts.activations import chunk_file, read_absmax, read_activations
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.provenance import provenance, refuse_others, rotated_from
from ptqflow.artifacts.schemas import STATISTICS_FILE
from ptqflow.artifacts.tables import read_metadata, write_rows
from ptqflow.artifacts.tokens import calibration_set, read_tokens, tokens_are_of
from ptqflow.datamodel import Model
from ptqflow.devices.device import PLATFORMS, select
from ptqflow.errors import ConfigError
from ptqflow.methods.layer import MEASURED_TOKENS, quantize_layer
from ptqflow.modeling.anatomy import EMBEDDING, block_prefix
from ptqflow.modeling.blocks import Blocks
from ptqflow.modeling.qparams import noted, write_qparams
from ptqflow.modeling.shapes import check_recipe
from ptqflow.progress import progress
from ptqflow.recipes import Recipe
from ptqflow.selftest.reliance import check_device


class Settings(Model):
    """The recipe as this chunk sees it, the chunk's index, and its blocks [first, beyond the last].

    layer_errors: whether it is measured what linears and blocks lose.
    """

    recipe: Recipe
    chunk: Annotated[int, Field(ge=0)]
    layers: tuple[int, int]
    layer_errors: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--platform", choices=PLATFORMS, default="cpu", help="where to compute")
    parser.add_argument("--model", type=Path, required=True, help="manifest.json of the float model")
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--calibration", type=Path, help="manifest.json written by collect")
    start.add_argument("--tokens", type=Path, help="calibration sequences: enough for chunk 0 of recipes that read no statistics")
    parser.add_argument("--qparams", type=Path, required=True, help="integers, scales and transforms to write (safetensors)")
    parser.add_argument("--diagnostics", type=Path, required=True, help="errors per linear and block to write (Parquet)")
    parser.add_argument("--losses", type=Path, help="what learned transforms measured, step by step, to write (Parquet)")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Verify the inputs, quantize the chunk's blocks in order, write integers and diagnostics."""
    device, recipe, layers = select(args.platform), settings.recipe, range(*settings.layers)
    runs_states = settings.layer_errors or recipe.learns_from_states()
    if args.tokens is not None and (recipe.reads_statistics() or (settings.chunk > 0 and runs_states)):
        raise ConfigError("--tokens is enough for chunk 0 of recipes that read no statistics only; give --calibration")
    model, manifest = args.model.parent, Manifest.read(args.model)
    manifest.verify(model, ["config.json"])
    recipe.check_source(manifest.origin, str(model))
    check_device(recipe, device)
    check_recipe(recipe, json.loads((model / "config.json").read_text()), "of --settings", str(model))
    blocks = Blocks(model, device.torch_device, device.compute_dtype)
    if not 0 <= layers.start < layers.stop <= (count := blocks.config.num_hidden_layers):
        raise ConfigError(
            f"--settings: layers {list(settings.layers)}: {model} has blocks 0 to {count - 1}; give [first, last + 1]"
        )
    names = [name for layer in layers for name in blocks.weights.names_under(block_prefix(layer))]
    if args.tokens is not None and runs_states:
        names.append(EMBEDDING)
    files = blocks.weights.files(names)
    manifest.verify(model, files)
    hidden, absmax, inputs = _states(settings, args, blocks, manifest)
    hidden = device.near(hidden)
    inputs["model"] = {name: manifest.files[name].sha256 for name in ["config.json", *files]}

    dump = {"recipe": recipe.dump(), "chunk": settings.chunk, "layers": list(settings.layers)}
    dump |= {} if settings.layer_errors else {"layer_errors": False}
    origin = provenance("quantize", dump, args.code or "", device=device.name, bfloat16=device.multiplies_bfloat16, inputs=inputs)
    origin |= rotated_from(manifest.origin)
    collected = Manifest.read(args.calibration).origin if args.calibration is not None else None
    origin["calibration_set"] = calibration_set(args.tokens) if collected is None else collected.get("calibration_set")
    rows: list[dict[str, Any]] = []
    losses: list[dict[str, Any]] = []
    with (
        write_qparams(args.qparams, origin) as take,
        progress(f"quantize {args.qparams.parent}", len(layers), "blocks") as bar,
        torch.no_grad(),
        device.true_float32(),
    ):
        exact = hidden.clone() if recipe.rounding.asymmetric else None
        for layer in layers:
            last, peaks = layer == layers[-1], absmax.get(layer, {})
            found = quantize_layer(blocks, layer, hidden, peaks, recipe, device, last, exact, settings.layer_errors)
            qparams, found_rows, found_losses = found
            take(qparams)
            rows += found_rows
            losses += found_losses
            bar.update()
        origin |= (said := noted(rows))  # whoever makes something of these integers says so
        del hidden, exact, blocks  # before the file is put together

    for reason, count in said.get("fallbacks", {}).items():
        print(f"quantize: {count} of {len(rows)} linears and blocks not as the recipe says: {reason}", file=sys.stderr)
    for reason, count in said.get("warnings", {}).items():
        print(f"quantize: warning: {count} of {len(rows)} linears and blocks: {reason}", file=sys.stderr)
    write_rows(args.diagnostics, schemas.DIAGNOSTICS, rows, origin)
    if args.losses is not None:
        write_rows(args.losses, schemas.LOSSES, losses, origin)


def _states(
    settings: Settings, args: argparse.Namespace, blocks: Blocks, model: Manifest
) -> tuple[Tensor, dict[int, dict[str, Tensor]], dict[str, Any]]:
    """The states that enter the chunk, max|x| by layer and site if the recipe reads it, and sha256 of what they are from."""
    measured = MEASURED_TOKENS if settings.layer_errors else 0
    enough = None if settings.recipe.learns_from_states() else measured  # else states only serve to measure errors
    if args.tokens is not None:
        tokens_are_of(args.tokens, model)
        tokens = read_tokens(args.tokens, blocks.config.vocab_size, enough)
        hidden = blocks.embed(tokens) if len(tokens) else torch.empty(0, tokens.shape[1], 0)
        return hidden, {}, {"tokens": HashCache().sha256(args.tokens)}
    manifest, folder, activations = Manifest.read(args.calibration), args.calibration.parent, chunk_file(settings.chunk)
    asked = {"model": {name: entry.sha256 for name, entry in model.files.items()}}
    refuse_others(args.calibration, manifest.origin, asked, "run collect again with this model")
    names = [activations] + ([STATISTICS_FILE] if settings.recipe.reads_statistics() else [])
    manifest.verify(folder, names)
    found = read_metadata(folder / activations).get("layers")
    if found != list(settings.layers):
        raise ConfigError(
            f"chunk {settings.chunk} of {args.calibration} holds layers {found}, not {list(settings.layers)}; collect again"
        )
    absmax = read_absmax(folder / STATISTICS_FILE) if STATISTICS_FILE in names else {}
    hidden = read_activations(folder / activations, enough).to(blocks.dtype)
    files = {name: manifest.files[name].sha256 for name in names}
    return hidden, absmax, {"tokens": manifest.origin["inputs"]["tokens"], "calibration": files}
