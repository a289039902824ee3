"""Held-out error of single blocks under recipes, each block on its own: the float model's states enter it.

Usage: held_out.py NAME=RECIPE ... [--seeds 0 1 2] [--model resources/demo-model] [--chain]. RECIPE: an entry of `recipes`
as JSON. The error is |block' - block|² / |block - input|² on sequences that calibration did not see, all quantizers on, as
deployed: a line per block and seed, then the geometric mean of each recipe over the first one's. With `--chain` the states that
enter a block are those that the quantized blocks before it make, and the error is that of all blocks so far,
|block'(x') - block(x)|², over the same |block(x) - x|².
"""

import argparse
import json
import math
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from peer_models import ROOT
from ptqflow.artifacts.activations import STATISTICS, read_absmax
from ptqflow.artifacts.tokens import read_tokens
from ptqflow.devices.device import select
from ptqflow.methods.layer import quantize_layer
from ptqflow.modeling import online
from ptqflow.modeling.blocks import Blocks, Positions, batches, forward
from ptqflow.modeling.fake_quant import quantize_block
from ptqflow.modeling.qparams import deployed
from ptqflow.presets import resolve
from ptqflow.recipes import Recipe
from ptqflow.stages import collect, fetch, tokens
from torch import Tensor, nn

CALIBRATION = {"source": {"path": str(ROOT / "resources/calibration/traces.jsonl")}, "format": "chat"}
TOKENS = "tokens.parquet"


def seeded(entry: dict[str, Any], seed: int) -> Recipe:
    """The recipe with its own randomness drawn by another seed, where it has any."""
    recipe = resolve(entry)
    if "seed" not in type(recipe.transform).model_fields:
        return recipe
    return recipe.model_copy(update={"transform": recipe.transform.model_copy(update={"seed": 1000 * seed})})


@torch.no_grad()
def output_error(block: nn.Module, exact: nn.Module, states: Tensor, positions: Positions) -> float:
    """|block' - block|² / |block - input|² on states [sequences, tokens, hidden]."""
    lost = total = 0.0
    for part in batches(*states.shape[:2]):
        target = forward(exact, states[part], positions)
        lost += (forward(block, states[part], positions) - target).double().square().sum().item()
        total += (target - states[part]).double().square().sum().item()
    return lost / total


def block_error(blocks: Blocks, layer: int, qparams: dict[str, Tensor], recipe: Recipe, states: Tensor) -> float:
    """Of block `layer` as deployed, on held-out states [sequences, tokens, hidden] of the float model."""
    exact = blocks.build(layer, blocks.tensors(layer))
    return output_error(as_deployed(blocks, layer, qparams, recipe), exact, states, blocks.positions(states.shape[1]))


def as_deployed(blocks: Blocks, layer: int, qparams: dict[str, Tensor], recipe: Recipe) -> nn.Module:
    """Block `layer` with its quantizers."""
    weights = {n: deployed(n, t, qparams, blocks.architecture) for n, t in blocks.tensors(layer).items()}
    block = blocks.build(layer, weights)
    quantize_block(block, recipe, layer)
    online.load(block, layer, qparams)
    return block


@torch.no_grad()
def chain_errors(
    blocks: Blocks, layers: int, states: Tensor, samples: int, absmax: dict[int, dict[str, Tensor]], recipe: Recipe
) -> Iterator[tuple[int, float]]:
    """The held-out error of the first blocks, all quantized, after each of them; the first `samples` of `states` calibrate."""
    device, positions = select("cpu"), blocks.positions(states.shape[1])
    own, exact, held_out, target = states[:samples].clone(), states[:samples].clone(), states[samples:].clone(), states[samples:]
    for layer in range(layers):
        with device.true_float32():
            beside = exact if recipe.rounding.asymmetric else None
            qparams, _, _ = quantize_layer(blocks, layer, own, absmax.get(layer, {}), recipe, device, exact=beside)
        float_block = blocks.build(layer, blocks.tensors(layer))
        block, lost, total = as_deployed(blocks, layer, qparams, recipe), 0.0, 0.0
        after = torch.empty_like(target)
        for part in batches(*target.shape[:2]):
            after[part] = forward(float_block, target[part], positions)
            held_out[part] = forward(block, held_out[part], positions)
            lost += (held_out[part] - after[part]).double().square().sum().item()
            total += (after[part] - target[part]).double().square().sum().item()
        target = after
        yield layer, lost / total


def float_states(blocks: Blocks, states: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each block's index and the float states that enter it, [sequences, tokens, hidden]; one tensor for all."""
    positions = blocks.positions(states.shape[1])
    for layer in range(blocks.config.num_hidden_layers):
        yield layer, states
        exact = blocks.build(layer, blocks.tensors(layer))
        with torch.no_grad():
            for part in batches(*states.shape[:2]):
                states[part] = forward(exact, states[part], positions)


def embedded(model: Path, samples: int, length: int, folder: Path) -> tuple[Blocks, Tensor]:
    """A model folder's blocks, and states [samples, length, hidden] that enter the first."""
    manifest = folder / "model/manifest.json"
    fetch.run(fetch.Settings(path=str(model)), Namespace(output=manifest, part=None, code=None))
    drawn = CALIBRATION | {"samples": samples, "sequence_length": length}
    sequences = Namespace(model=manifest, output=folder / TOKENS, code=None)
    tokens.run(tokens.Settings.model_validate(drawn), sequences)
    blocks = Blocks(manifest.parent, select("cpu").torch_device, torch.float32)
    return blocks, blocks.embed(read_tokens(sequences.output, blocks.config.vocab_size))


def calibrated(model: Path, samples: int, length: int, folder: Path) -> tuple[Blocks, Tensor, dict[int, dict[str, Tensor]]]:
    """Likewise; and max|x| of all blocks' inputs by block and site."""
    blocks, states = embedded(model, samples, length, folder)
    calibration = folder / "calibration/manifest.json"
    arguments = Namespace(
        platform="cpu", model=folder / "model/manifest.json", tokens=folder / TOKENS, output=calibration, code=None
    )
    collect.run(collect.Settings(chunks=1), arguments)
    return blocks, states, read_absmax(calibration.parent / STATISTICS)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", metavar="NAME=RECIPE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--model", type=Path, default=ROOT / "resources/demo-model")
    parser.add_argument("--samples", type=int, default=64, help="calibration sequences; as many more are held out")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--layers", nargs="+", type=int)
    parser.add_argument("--chain", action="store_true", help="quantized blocks before each; of `--layers` the last is read")
    args = parser.parse_args()
    recipes = {name: json.loads(recipe) for name, _, recipe in (text.partition("=") for text in args.recipes)}
    device = select("cpu")
    with tempfile.TemporaryDirectory() as temporary:
        blocks, states, absmax = calibrated(args.model, 2 * args.samples, args.length, Path(temporary))
        found: dict[str, list[float]] = {name: [] for name in recipes}
        if args.chain:
            count = min(blocks.config.num_hidden_layers, max(args.layers) + 1 if args.layers else blocks.config.num_hidden_layers)
            for seed, (name, entry) in product(args.seeds, recipes.items()):
                for layer, error in chain_errors(blocks, count, states, args.samples, absmax, seeded(entry, seed)):
                    found[name].append(error)
                    print(f"blocks to {layer} seed {seed} {name}: {error:.4e}", flush=True)
        for layer, entering in float_states(blocks, states) if not args.chain else ():
            if args.layers is not None and layer not in args.layers:
                continue
            for seed, (name, entry) in product(args.seeds, recipes.items()):
                recipe, own = seeded(entry, seed), entering[: args.samples].clone()
                with torch.no_grad(), device.true_float32():
                    qparams, _, _ = quantize_layer(blocks, layer, own, absmax.get(layer, {}), recipe, device, True)
                error = block_error(blocks, layer, qparams, recipe, entering[args.samples :])
                found[name].append(error)
                print(f"block {layer} seed {seed} {name}: {error:.4e}", flush=True)
    first = next(iter(found.values()))
    for name, errors in found.items():
        ratios = [e / f for e, f in zip(errors, first, strict=True)]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"{name}: geometric mean of the ratio {mean:.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
