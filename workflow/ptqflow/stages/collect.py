"""`collect`: one float forward pass over a calibration set, streamed block by block.

Writes, beside the manifest, channel statistics of every distinct linear input (and of the cached keys and values), and the hidden
states that enter each chunk. From then on every chunk can be quantized on its own.
"""

import argparse
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from ptqflow.artifacts import schemas
from ptqflow.artifacts.activations import chunk_file, write_activations
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.manifests import Manifest, output
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.schemas import STATISTICS_FILE
from ptqflow.artifacts.tables import numbers, repeated, write_table
from ptqflow.artifacts.tokens import calibration_set, read_tokens, tokens_are_of
from ptqflow.chunks import chunk_layers
from ptqflow.datamodel import Model
from ptqflow.devices.device import PLATFORMS, Device, select
from ptqflow.errors import ArtifactError
from ptqflow.modeling.blocks import Blocks, SeenEnough, batches, forward, watch_sites
from ptqflow.modeling.fake_quant import set_cache_transform
from ptqflow.numerics.observers import ChannelStatistics
from ptqflow.progress import progress


class Settings(Model):
    """`chunks`: into how many runs of blocks the model is cut."""

    chunks: Annotated[int, Field(ge=1)] = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--platform", choices=PLATFORMS, default="cpu", help="where to compute")
    parser.add_argument("--model", type=Path, required=True, help="manifest.json of the float model")
    parser.add_argument("--tokens", type=Path, required=True, help="calibration sequences, tokens.parquet")
    parser.add_argument("--output", type=output, required=True, help="manifest.json to write; the tables go beside it")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Verify the inputs, walk all blocks once, write tables and manifest."""
    device, folder = select(args.platform), args.output.parent
    manifest = Manifest.read(args.model)
    model = args.model.parent
    manifest.verify(model, ["config.json"])
    blocks = Blocks(model, device.torch_device, device.compute_dtype)
    manifest.verify(model, blocks.weights.files())
    layers = blocks.config.num_hidden_layers
    chunks = chunk_layers(layers, settings.chunks)
    tokens = read_tokens(args.tokens, blocks.config.vocab_size)

    tokens_are_of(args.tokens, manifest)
    read = ["config.json", *blocks.weights.files()]
    inputs = {"model": {name: manifest.files[name].sha256 for name in read}, "tokens": HashCache().sha256(args.tokens)}
    origin = provenance(
        "collect",
        settings.model_dump(mode="json"),
        args.code or "",
        device=device.name,
        bfloat16=device.multiplies_bfloat16,
        inputs=inputs,
    )
    origin["calibration_set"] = calibration_set(args.tokens)
    starts = {chunk.start: k for k, chunk in enumerate(chunks)}
    tables = []
    args.output.unlink(missing_ok=True)
    for stale in folder.glob("chunk=*"):  # a glob over chunk=* must see this run's chunks only
        shutil.rmtree(stale)
    with progress(f"collect {args.output.parent}", layers, "blocks") as bar, torch.no_grad(), device.true_float32():
        hidden = device.near(blocks.embed(tokens))
        for layer in range(layers):
            if layer in starts:
                k = starts[layer]
                metadata = {**origin, "layers": [chunks[k].start, chunks[k].stop]}
                write_activations(folder / chunk_file(k), hidden, metadata)
            tables += _walk(blocks, layer, hidden, device, layer == layers - 1)
            bar.update()
    write_table(folder / STATISTICS_FILE, pa.concat_tables(tables), schemas.STATISTICS, origin)
    names = [STATISTICS_FILE, *(chunk_file(k) for k in range(len(chunks)))]
    Manifest.of_folder(folder, names, {**origin, "layers": [[c.start, c.stop] for c in chunks]}).write(folder)


def _walk(blocks: Blocks, layer: int, hidden: Tensor, device: Device, last: bool) -> list[pa.Table]:
    """One float block: `hidden` [sequences, tokens, hidden] becomes its output, in place (unless `last`: nobody reads that).

    Returns statistics by site.
    """
    tensors = blocks.tensors(layer)
    block = blocks.build(layer, tensors, device.parameter_dtype(tensors.values()))
    sites: dict[str, ChannelStatistics] = {}

    def watch(site: str, x: Tensor) -> None:
        sites.setdefault(site, ChannelStatistics()).update(x.flatten(0, -2))
        if last and site == blocks.architecture.sites[-1].name:
            raise SeenEnough

    def watch_cache(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        watch("k", key.transpose(1, 2).flatten(-2))  # [batch, tokens, heads * head_dim], after RoPE
        watch("v", value.transpose(1, 2).flatten(-2))
        return key, value

    set_cache_transform(block, watch_cache)
    positions = blocks.positions(hidden.shape[1])
    with watch_sites(block, watch), device.forward_precision(tensors.values()):
        for part in batches(*hidden.shape[:2]):
            with suppress(SeenEnough):
                hidden[part] = forward(block, hidden[part].to(device.torch_device), positions)
    return [_table(layer, site, statistics) for site, statistics in sites.items()]


def _table(layer: int, site: str, statistics: ChannelStatistics) -> pa.Table:
    found = statistics.result()
    if not bool(found["absmax"].isfinite().all()):
        raise ArtifactError(
            f"block {layer} of the float model: the states of site {site} are not finite: they overflow; "
            "use another calibration set or model"
        )
    columns = {name: numbers(schemas.f32, values.float().numpy()) for name, values in found.items()}
    count = len(columns["absmax"])
    columns |= {"layer": numbers(schemas.i32, np.full(count, layer, np.int32)), "site": repeated(site, count)}
    columns["channel"] = numbers(schemas.i32, np.arange(count, dtype=np.int32))
    return pa.table({name: columns[name] for name in schemas.STATISTICS.names}, schema=schemas.STATISTICS)
