"""`quantize`: one chunk of decoder blocks by a recipe. Loads only its own blocks and the hidden states that enter them."""

import argparse
import json
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ptqflow.artifacts import schemas
from ptqflow.artifacts.activations import STATISTICS, chunk_file, read_activations
from ptqflow.artifacts.atomic import canonical_json
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.tables import read_metadata, read_table, write_rows
from ptqflow.devices.device import PLATFORMS, Device, select
from ptqflow.errors import ConfigError
from ptqflow.methods.block import BlockInputs, quantize_weights, sampled_error
from ptqflow.methods.learned import Task, learner
from ptqflow.methods.static import static_input_scales
from ptqflow.modeling import online
from ptqflow.modeling.architectures import SITES, block_prefix, linear_prefix, smoothing_key
from ptqflow.modeling.blocks import Blocks, SeenEnough, batches, forward, sample_linears, watch_sites
from ptqflow.modeling.cache import CacheRanges, attach, static_qparams
from ptqflow.modeling.fake_quant import quantize_block
from ptqflow.modeling.qparams import METADATA, deployed, transformed
from ptqflow.modeling.shapes import check_recipe, head_dim
from ptqflow.modeling.weights import save_safetensors
from ptqflow.numerics.gram import add_gram, mirror
from ptqflow.progress import progress
from ptqflow.recipes import Model, NoTransform, Recipe
from ptqflow.transforms import diagonal

_SAMPLED_TOKENS = 256  # at most, on which each linear's error is measured
_MEASURED_TOKENS = 1024  # at least, on which a block's error is measured (or all there are)


class Settings(Model):
    """The recipe as this chunk sees it, the chunk's index, and its blocks [first, beyond the last]."""

    recipe: Recipe
    chunk: Annotated[int, Field(ge=0)]
    layers: tuple[int, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--platform", choices=PLATFORMS, default="cpu", help="where to compute")
    parser.add_argument("--model", type=Path, required=True, help="manifest.json of the float model")
    parser.add_argument("--calibration", type=Path, required=True, help="manifest.json written by collect")
    parser.add_argument("--qparams", type=Path, required=True, help="integers, scales and transforms to write (safetensors)")
    parser.add_argument("--diagnostics", type=Path, required=True, help="errors per linear and block to write (Parquet)")
    parser.add_argument("--losses", type=Path, help="what learned transforms measured, step by step, to write (Parquet)")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Verify the inputs, quantize the chunk's blocks in order, write integers and diagnostics."""
    device, recipe, layers = select(args.platform), settings.recipe, range(*settings.layers)
    model, calibration = args.model.parent, args.calibration.parent
    model_manifest, calibration_manifest = Manifest.read(args.model), Manifest.read(args.calibration)
    model_manifest.verify(model, ["config.json"])
    check_recipe(recipe, json.loads((model / "config.json").read_text()), "of --settings", str(model))
    activations = chunk_file(settings.chunk)
    calibration_manifest.verify(calibration, [STATISTICS, activations])
    found = read_metadata(calibration / activations).get("layers")
    if found != list(settings.layers):
        raise ConfigError(
            f"chunk {settings.chunk} of {args.calibration} holds layers {found}, not {list(settings.layers)}; collect again"
        )
    blocks = Blocks(model, device.torch_device, device.compute_dtype)
    names = [name for layer in layers for name in blocks.weights.names_under(block_prefix(layer))]
    files = blocks.weights.files(names)
    model_manifest.verify(model, files)

    hidden = read_activations(calibration / activations).to(device.compute_dtype)
    if not recipe.learns_from_states():  # then states only serve to measure errors
        hidden = hidden[_sample(hidden)].clone()
    statistics = read_statistics(calibration / STATISTICS)
    qparams: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    losses: list[dict[str, Any]] = []
    with progress("quantize", len(layers), "blocks") as bar, torch.no_grad(), device.true_float32():
        for layer in layers:
            last = layer == layers[-1]
            done = quantize_layer(blocks, layer, hidden, statistics[layer], recipe, device, last)
            found_qparams, found_rows, found_losses = done
            qparams |= found_qparams
            rows += found_rows
            losses += found_losses
            bar.update()

    inputs = {
        "model": {name: model_manifest.files[name].sha256 for name in ["config.json", *files]},
        "calibration": {name: calibration_manifest.files[name].sha256 for name in (STATISTICS, activations)},
    }
    dump = {"recipe": recipe.dump(), "chunk": settings.chunk, "layers": list(settings.layers)}
    origin = provenance("quantize", dump, args.code or "", device=device.name, bfloat16=device.multiplies_bfloat16, inputs=inputs)
    save_safetensors(args.qparams, qparams, {METADATA: canonical_json(origin)})
    write_rows(args.diagnostics, schemas.DIAGNOSTICS, rows, origin)
    if args.losses is not None:
        write_rows(args.losses, schemas.LOSSES, losses, origin)


def _sample(hidden: Tensor) -> slice:
    """The sequences of [sequences, tokens, hidden] on which a block's error is measured: the first few batches."""
    few = max(1, _MEASURED_TOKENS // hidden.shape[1])
    return slice(0, next((part.stop for part in batches(*hidden.shape[:2]) if part.stop >= few), len(hidden)))


Statistics = dict[str, dict[str, Tensor]]  # of a block: by name (mean_abs, absmax), then by site


def read_statistics(path: Path) -> dict[int, Statistics]:
    """mean|x| and max|x| per channel of the float model, by layer, name and site."""
    names = ["mean_abs", "absmax"]
    table = read_table(path, schemas.STATISTICS, ["layer", "site", "channel", *names]).sort_by("channel")
    found: dict[int, Statistics] = {}
    for group in table.group_by(["layer", "site"], use_threads=False).aggregate([(n, "list") for n in names]).to_pylist():
        for name in names:
            values = torch.tensor(group[f"{name}_list"])
            found.setdefault(group["layer"], {n: {} for n in names})[name][group["site"]] = values
    return found


def quantize_layer(
    blocks: Blocks, layer: int, hidden: Tensor, statistics: Statistics, recipe: Recipe, device: Device, last: bool = False
) -> tuple[dict[str, Tensor], list[dict[str, Any]], list[dict[str, Any]]]:
    """Quantize one block given the states that enter it; `hidden` becomes what enters the next one, in place (unless `last`).

    With `error_propagation` that is the quantized block's output, else the float block's. Returns qparams by name, rows of
    diagnostics, and rows of losses (of learned transforms). The last row of diagnostics is the block's: its error on the states
    that entered it (on a sample of them), quantized activations and cache included.
    """
    start = time.perf_counter()
    device.reset_peak()
    tensors = blocks.tensors(layer)
    learn, propagate = learner(recipe), recipe.error_propagation
    # A learned transform is compared with its targets to the last digits; others see the model as it will run.
    stored = [] if learn else list(tensors.values())
    block = blocks.build(layer, tensors, device.parameter_dtype(stored))
    ranges = CacheRanges(recipe.scheme.kv_cache) if recipe.scheme.kv_cache and recipe.scheme.kv_cache.static else None
    if ranges is not None:
        attach(block, ranges)
    sites = [site.name for site in SITES if any(recipe.weights(layer, linear) for linear in site.linears)]
    before = hidden[_sample(hidden)].clone()
    # What is learned is learned from all inputs and targets; else targets are needed where the error is measured.
    outputs = torch.empty_like(hidden) if learn else torch.empty_like(before) if propagate else hidden
    grams = _float_pass(block, hidden, outputs, blocks, sites, stored, device)
    tokens = hidden.shape[0] * hidden.shape[1]
    inputs = BlockInputs(grams, tokens, **statistics, head_dim=head_dim(blocks.config.to_dict()))
    del block
    losses: list[dict[str, Any]] = []
    fallback: str | None = None
    if learn:
        learned = learn(Task(blocks, layer, hidden, outputs, inputs.absmax), recipe)
        inputs = replace(inputs, grams=learned.transform_grams(grams), weight_clips=learned.weight_clips)
        rounding_only = recipe.model_copy(update={"transform": NoTransform()})
        qparams, rows = quantize_weights(layer, learned.tensors, inputs, rounding_only, device.peak_bytes)
        qparams, losses, fallback = qparams | learned.qparams, learned.rows, learned.fallback
    else:
        qparams, rows = quantize_weights(layer, tensors, inputs, recipe, device.peak_bytes)
    weight_dtype = tensors[f"{linear_prefix(layer, 'o_proj')}.weight"].dtype
    qparams |= static_input_scales(layer, recipe, inputs.absmax, qparams, weight_dtype)
    if ranges is not None:
        scale = qparams.get(smoothing_key(layer, "o"))
        found = static_qparams(ranges, diagonal.rows(scale) if scale is not None else None)
        qparams |= {f"{block_prefix(layer)}{name}": tensor for name, tensor in found.items()}

    deployed_tensors = {name: deployed(name, tensor, qparams) for name, tensor in tensors.items()}
    quantized = blocks.build(layer, deployed_tensors, device.parameter_dtype(stored))
    quantize_block(quantized, recipe, layer)
    online.load(quantized, layer, qparams)
    with sample_linears(quantized, _SAMPLED_TOKENS) as sampled:
        error = _quantized_pass(quantized, before, outputs, hidden, blocks, stored, device, everything=propagate and not last)
    for row in rows:
        name = f"{linear_prefix(layer, row['module'])}.weight"
        weight = learned.tensors[name] if learn else transformed(name, tensors[name].float(), qparams)
        row["sampled_error"] = sampled_error(weight, *sampled[row["module"]])
    if not propagate and outputs is not hidden:
        hidden.copy_(outputs)
    seconds = time.perf_counter() - start
    rows.append(
        {"layer": layer, "module": "block", **error, "seconds": seconds, "peak_bytes": device.peak_bytes(), "fallback": fallback}
    )
    return qparams, rows, losses


def _quantized_pass(
    block: torch.nn.Module,
    before: Tensor,
    outputs: Tensor,
    hidden: Tensor,
    blocks: Blocks,
    stored: list[Tensor],
    device: Device,
    everything: bool,
) -> dict[str, float]:
    """The error of the quantized block on the states `before`, against the float block's `outputs`.

    With `everything`, `hidden` becomes its outputs, in place.
    """
    lost = total = 0.0
    positions = blocks.positions(hidden.shape[1])
    for part in batches(len(hidden) if everything else len(before), hidden.shape[1]):
        measured = part.stop <= len(before)
        entering = before[part] if measured else hidden[part]
        with device.forward_precision(stored):
            output = forward(block, entering.to(device.torch_device), positions).to(hidden.device)
        if measured:
            target = outputs[part].float()
            lost += (output.float() - target).square().sum(dtype=torch.float64).item()
            total += (target - entering.float()).square().sum(dtype=torch.float64).item()
        if everything:
            hidden[part] = output
    error = {"output_error": lost / total if total else 0.0, "output_mse": lost / before.numel()}
    return error | {"tokens": before.shape[0] * before.shape[1]}


def _float_pass(
    block: torch.nn.Module,
    hidden: Tensor,
    outputs: Tensor,
    blocks: Blocks,
    sites: list[str],
    stored: list[Tensor],
    device: Device,
) -> dict[str, Tensor]:
    """Gram matrices XᵀX (float32, on the device) of the inputs at `sites`; `outputs` becomes those of its first sequences."""
    grams: dict[str, Tensor] = {}

    def watch(site: str, x: Tensor) -> None:
        if site in sites:
            rows = x.flatten(0, -2).float()
            if site not in grams:
                grams[site] = rows.new_zeros(rows.shape[1], rows.shape[1])
            with device.gram_precision(stored):
                add_gram(grams[site], rows)
        if site == SITES[-1].name and not wanted:
            raise SeenEnough

    positions = blocks.positions(hidden.shape[1])
    with watch_sites(block, watch), device.forward_precision(stored):
        for part in batches(*hidden.shape[:2]):
            wanted = part.stop <= len(outputs)
            with suppress(SeenEnough):
                outputs[part] = forward(block, hidden[part].to(blocks.device), positions).to(hidden.device)
    return {site: mirror(gram) for site, gram in grams.items()}
