"""`rescue`: calibrate the blocks of a quantized model that stand out once more, and put what is better in their place.

One job after all chunks, since what stands out shows only beside the others; it calibrates nothing but these blocks. Each attempt
is kept beside the output until the end, so a job that is started again goes on where it was.
"""

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptqflow.artifacts import schemas
from ptqflow.artifacts.activations import chunk_file, read_absmax, read_activations
from ptqflow.artifacts.atomic import canonical_json
from ptqflow.artifacts.evidence_schemas import RESCUE
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.provenance import provenance, refuse_others, rotated_from
from ptqflow.artifacts.schemas import STATISTICS_FILE
from ptqflow.artifacts.tables import read_table, write_rows
from ptqflow.checkpoints.parts import check_parts
from ptqflow.datamodel import Model
from ptqflow.devices.device import PLATFORMS, Device, select
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.methods.block import ratio
from ptqflow.methods.layer import quantize_layer
from ptqflow.methods.rescue import Ladder, Outcome
from ptqflow.modeling.anatomy import block_prefix
from ptqflow.modeling.blocks import Blocks, batches, forward
from ptqflow.modeling.qparams import QParams, noted, write_qparams
from ptqflow.modeling.shapes import check_recipe
from ptqflow.recipes import Override, Recipe
from ptqflow.selftest.reliance import check_device

_LOSS, _UPDATE = "deployed_held_out_loss", "held_out_update"


class Settings(Model):
    """The complete recipe, with `rescue`."""

    recipe: Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--platform", choices=PLATFORMS, default="cpu", help="where to compute")
    parser.add_argument("--model", type=Path, required=True, help="manifest.json of the float model")
    parser.add_argument("--calibration", type=Path, required=True, help="manifest.json written by collect")
    for kind, what in (
        ("qparams", "qparams.safetensors"),
        ("diagnostics", "diagnostics.parquet"),
        ("losses", "losses.parquet"),
    ):
        parser.add_argument(f"--{kind}", type=Path, required=True, nargs="+", help=f"{what} of every chunk, in any order")
    parser.add_argument("--output", type=Path, required=True, help="qparams of all blocks to write (safetensors)")
    parser.add_argument("--table", type=Path, required=True, help="what each attempt gained and cost, to write (Parquet)")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Verify the inputs, climb the ladder, write the qparams of all blocks and the table of attempts."""
    device, recipe, model = select(args.platform), settings.recipe, args.model.parent
    if recipe.rescue is None:
        raise ConfigError("--settings: the recipe has no rescue; export its chunks as they are")
    manifest = Manifest.read(args.model)
    manifest.verify(model)
    recipe.check_source(manifest.origin, str(model))
    check_device(recipe, device)
    config = json.loads((model / "config.json").read_text())
    check_recipe(recipe, config, "of --settings", str(model))
    qparams = QParams(args.qparams)
    tokens = check_parts(qparams, recipe, config, manifest)
    calibration = Manifest.read(args.calibration)
    refuse_others(args.calibration, calibration.origin, {"tokens": tokens}, "give the calibration that the chunks were made with")

    cache = HashCache()
    inputs: dict[str, Any] = {
        "model": {name: entry.sha256 for name, entry in manifest.files.items()},
        "tokens": tokens,
        "calibration": {STATISTICS_FILE: calibration.files[STATISTICS_FILE].sha256},
    }
    inputs |= {kind: sorted(cache.sha256(path) for path in getattr(args, kind)) for kind in ("qparams", "diagnostics", "losses")}
    origin = provenance("rescue", {"recipe": recipe.dump()}, args.code or "", device=device.name, inputs=inputs)
    origin |= rotated_from(manifest.origin)
    origin["calibration_set"] = calibration.origin.get("calibration_set")

    blocks = Blocks(model, device.torch_device, device.compute_dtype)
    attempts = _Attempts(blocks, device, recipe, qparams, args, calibration, origin)
    rows = [row for path in args.diagnostics for row in read_table(path, schemas.DIAGNOSTICS).to_pylist()]
    losses = [row for path in args.losses for row in read_table(path, schemas.LOSSES).to_pylist()]
    first = [
        outcome([r for r in losses if r["layer"] == layer], [r for r in rows if r["layer"] == layer])
        for layer in range(config["num_hidden_layers"])
    ]
    role = blocks.architecture.role
    ladder = Ladder(recipe, first, [[role(name) for name in site.linears] for site in blocks.architecture.sites], attempts)
    with torch.no_grad(), device.true_float32():
        ladder.climb()
    _write(args, recipe, ladder, qparams, rows, attempts, origin)
    shutil.rmtree(attempts.folder, ignore_errors=True)


def outcome(losses: Sequence[Mapping[str, Any]], diagnostics: Sequence[Mapping[str, Any]]) -> Outcome:
    """What a calibration of a block came to, by its rows of losses and of diagnostics.

    Raises ArtifactError where they do not say.
    """
    measured = {row["measure"]: row["value"] for row in losses}
    block = [row for row in diagnostics if row["module"] == "block"]
    if not block or not measured.keys() >= {_LOSS, _UPDATE}:
        raise ArtifactError("losses and diagnostics do not say what a block held out lost; quantize its chunk again")
    return Outcome(
        ratio(measured[_LOSS], measured[_UPDATE]),
        {row["module"]: row.get("sampled_error") or 0.0 for row in diagnostics if row["module"] != "block"},
        block[0]["fallback"],
        block[0]["seconds"],
        next((ratio(row["value"], measured[_UPDATE]) for row in losses if row.get("event") == "start"), None),
    )


class _Attempts:
    """Calibrates blocks by changed recipes; each result is a file, which a second run of the same job finds."""

    def __init__(
        self,
        blocks: Blocks,
        device: Device,
        recipe: Recipe,
        qparams: QParams,
        args: argparse.Namespace,
        calibration: Manifest,
        origin: Mapping[str, Any],
    ) -> None:
        self.folder: Path = args.output.parent / "attempts"
        self._blocks, self._device, self._recipe, self._origin = blocks, device, recipe, origin
        self._place, self._calibration = args.calibration.parent, calibration
        self._chunks = [(m["settings"]["chunk"], range(*m["settings"]["layers"])) for m in qparams.metadata.values()]
        calibration.verify(self._place, [STATISTICS_FILE])
        self._absmax = read_absmax(self._place / STATISTICS_FILE)
        self._states: tuple[int, Tensor] | None = None

    def __call__(self, layer: int, overrides: Sequence[Override]) -> Outcome:
        """A block by the recipe with overrides."""
        recipe, path = self._recipe.changed(list(overrides)), self.path(layer, overrides)
        if not path.is_file() or QParams([path]).metadata[path]["made"] != self._made:
            start = time.perf_counter()
            entering = self._entering(layer).clone()
            found, rows, losses = quantize_layer(
                self._blocks, layer, entering, self._absmax[layer], recipe, self._device, last=True
            )
            said = {"losses": losses, "diagnostics": rows, "seconds": time.perf_counter() - start}
            with write_qparams(path, {"made": self._made, "said": said}) as take:
                take(found)
        said = QParams([path]).metadata[path]["said"]
        return outcome(said["losses"], said["diagnostics"])

    @property
    def _made(self) -> str:
        """What must be the same for an attempt of an earlier run to be this one's."""
        return sha256(canonical_json(dict(self._origin)).encode()).hexdigest()

    def diagnostics(self, layer: int, overrides: Sequence[Override]) -> list[dict[str, Any]]:
        """Rows of diagnostics of an attempt."""
        path = self.path(layer, overrides)
        return list(QParams([path]).metadata[path]["said"]["diagnostics"])

    def path(self, layer: int, overrides: Sequence[Override]) -> Path:
        """Where an attempt lies."""
        asked = canonical_json([o.model_dump(mode="json", exclude_unset=True) for o in overrides])
        return self.folder / f"{layer}-{sha256(asked.encode()).hexdigest()[:16]}.safetensors"

    def _entering(self, layer: int) -> Tensor:
        """The float model's states that enter a block, as `collect` makes them from those that enter its chunk."""
        if self._states is not None and self._states[0] == layer:
            return self._states[1]
        chunk, layers = next(entry for entry in self._chunks if layer in entry[1])
        self._calibration.verify(self._place, [chunk_file(chunk)])
        hidden = read_activations(self._place / chunk_file(chunk)).to(self._blocks.dtype)
        positions = self._blocks.positions(hidden.shape[1])
        for before in range(layers.start, layer):
            tensors = self._blocks.tensors(before)
            block = self._blocks.build(before, tensors, self._device.parameter_dtype(tensors.values()))
            with self._device.forward_precision(tensors.values()):
                for part in batches(*hidden.shape[:2]):
                    hidden[part] = forward(block, hidden[part].to(self._device.torch_device), positions).to(hidden.device)
        self._states = layer, hidden
        return hidden


def _write(
    args: argparse.Namespace,
    recipe: Recipe,
    ladder: Ladder,
    qparams: QParams,
    rows: Sequence[Mapping[str, Any]],
    attempts: _Attempts,
    origin: Mapping[str, Any],
) -> None:
    """All blocks' tensors, and what their diagnostics note: a rescued block's from its best attempt, the others' as they are.

    `rows`: diagnostics of the first calibration.
    """
    layers, overrides = range(len(ladder.best)), ladder.overrides()
    settings = {"recipe": recipe.changed(overrides).for_layers(layers).dump(), "chunk": 0, "layers": [0, len(layers)]}
    record = dict(origin) | {"settings": settings, "asked": origin["settings"]}
    record["rescued"] = [override.model_dump(mode="json", exclude_unset=True) for override in overrides]
    kept = [row for row in rows if not ladder.best[row["layer"]].overrides]
    for layer, best in enumerate(ladder.best):
        kept += attempts.diagnostics(layer, best.overrides) if best.overrides else []
    record |= noted(kept)
    names = {layer: [name for name in qparams if name.startswith(block_prefix(layer))] for layer in layers}
    with write_qparams(args.output, record) as take:
        for layer, best in enumerate(ladder.best):
            if best.overrides:
                found = QParams([attempts.path(layer, best.overrides)])
                take({name: found[name] for name in found})
            else:
                take({name: qparams[name] for name in names[layer]})
    write_rows(args.table, RESCUE, ladder.rows, record)
