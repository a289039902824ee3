"""Learned rounding by AutoRound's own code beside ours: held-out error of single blocks, and CPU seconds.

Usage: peer_autoround.py --reference FOLDER [NAME=SETTINGS ...] [--model resources/demo-model] [--layers 0 1] [--bits 4 3 2].
FOLDER: holds AutoRound and what it imports (`pip install --no-deps --target FOLDER auto-round py-cpuinfo datasets dill
multiprocess xxhash`); its `quantize_block` runs as it is, without compilation, in float32, with its defaults (200 steps of 8
sequences) but for SETTINGS, as JSON.

Both round weights asymmetrically in groups (`--group-size`), see the float model's states of the same sequences (`--samples`
of `--length` tokens) and are judged on as many others: |block' - block|² / |block - input|². `awq + NAME` is AutoRound on the
block as `awq-gptq` scales it. Those `of N times` see N times the sequences (`--more`); AutoRound's steps would not read them.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from held_out import block_error, embedded, float_states, output_error
from peer_flatquant import in_float32
from peer_models import ROOT
from ptqflow.devices.device import select
from ptqflow.methods.layer import quantize_layer
from ptqflow.modeling.blocks import Blocks, Positions
from ptqflow.modeling.qparams import deployed
from ptqflow.presets import resolve
from torch import Tensor, nn

GPTQ: dict[str, Any] = {"name": "gptq"}
GPTAQ = GPTQ | {"asymmetric_calibration": True}
AWQ, AUTO = {"name": "awq", "duo_scaling": True}, {"name": "auto"}
OURS: dict[str, dict[str, Any]] = {
    "gptq": {"rounding": GPTQ},
    "rtn": {},
    "awq": {"transform": AWQ},
    "awq-gptq": {"transform": AWQ, "rounding": GPTQ},
    "awq-gptaq": {"transform": AWQ, "rounding": GPTAQ},
    "awq-gptq, clip auto": {"transform": AWQ, "rounding": GPTQ, "clip": AUTO},
    "awq-gptaq, clip auto": {"transform": AWQ, "rounding": GPTAQ, "clip": AUTO},
}
OF_MORE = ("awq-gptq", "awq-gptaq")


class OneBlock(nn.Module):
    """A model of one block, as far as AutoRound looks."""

    def __init__(self, block: nn.Module, config: Any) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([block])
        self.config, self.dtype = config, torch.float32


def learn_rounding(
    model: OneBlock, states: Tensor, positions: Positions, bits: int, group_size: int, settings: Mapping[str, Any]
) -> None:
    """Round the weights of the block in place, by states [sequences, tokens, hidden] that enter it."""
    from auto_round import AutoRound

    known = {"nsamples": len(states), "seqlen": states.shape[1], "amp": False, "enable_torch_compile": False, "device_map": "cpu"}
    scheme = {"bits": bits, "group_size": group_size, "sym": False, "data_type": "int"}
    learner = AutoRound(model, tokenizer="", scheme=scheme, **known, **settings)
    learner.post_init()
    calls = [(((x[None],), {"attention_mask": None, "position_embeddings": positions, "use_cache": False}),) for x in states]
    learner.quantize_block(model.model.layers[0], calls, device="cpu")


def their_error(
    blocks: Blocks, layer: int, tensors: Mapping[str, Tensor], states: Tensor, held_out: Tensor, *format_and_settings: Any
) -> tuple[float, float]:
    """AutoRound's error on held-out states, and its CPU seconds; `tensors`: the block's, scaled or not."""
    exact, block = blocks.build(layer, blocks.tensors(layer)), blocks.build(layer, tensors)
    positions = blocks.positions(states.shape[1])
    start = time.process_time()
    learn_rounding(OneBlock(block, blocks.config), states, positions, *format_and_settings)
    seconds = time.process_time() - start
    return output_error(block.requires_grad_(False), exact, held_out, positions), seconds


def our_error(
    blocks: Blocks, layer: int, states: Tensor, held_out: Tensor, bits: int, group_size: int, changes: Mapping[str, Any]
) -> tuple[float, float, dict[str, Tensor]]:
    """Ours likewise; and what the recipe made."""
    weights = {"num_bits": bits, "symmetric": False, "strategy": "group", "group_size": group_size}
    recipe, device, own = resolve({"scheme": {"weights": weights}, **changes}), select("cpu"), states.clone()
    beside = own.clone() if recipe.rounding.asymmetric else None
    start = time.process_time()
    with torch.no_grad(), device.true_float32():
        qparams, _, _ = quantize_layer(blocks, layer, own, {}, recipe, device, True, beside)
    seconds = time.process_time() - start
    return block_error(blocks, layer, qparams, recipe, held_out), seconds, qparams


def scaled(blocks: Blocks, layer: int, qparams: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The block's float tensors with the scalings of a recipe."""
    scalings = {n: t for n, t in qparams.items() if not n.endswith((".integers", ".scale", ".zero_point"))}
    return {n: deployed(n, t, scalings, blocks.architecture) for n, t in blocks.tensors(layer).items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="NAME=SETTINGS")
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=ROOT / "resources/demo-model")
    parser.add_argument("--layers", nargs="+", type=int)
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 3, 2])
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=64, help="calibration sequences; as many more are held out")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--more", type=int, default=8)
    args = parser.parse_args()
    if not (args.reference / "auto_round").is_dir():
        parser.exit(0, f"skipped: {args.reference} holds no auto_round; usage says how to get it\n")
    sys.path.append(str(args.reference))
    import auto_round  # type: ignore[import-not-found]  # noqa: F401, what it lacks is told before the work

    theirs = {name: json.loads(text) for name, _, text in (given.partition("=") for given in args.settings)} or {"auto-round": {}}
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}

    def note(layer: int, bits: int, name: str, error: float, seconds: float) -> None:
        found.setdefault((bits, name), []).append((error, seconds))
        print(f"block {layer}, {bits} bits, {name}: {error:.4e}, {seconds:.1f} s", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        model = in_float32(args.model, Path(temporary) / "float32")
        blocks, states = embedded(model, (args.more + 1) * args.samples, args.length, Path(temporary))
        for layer, entering in islice(float_states(blocks, states), max(args.layers) + 1 if args.layers else None):
            if args.layers is not None and layer not in args.layers:
                continue
            held_out, own, more = entering[: args.samples], entering[args.samples :][: args.samples], entering[args.samples :]
            for bits in args.bits:
                for name, changes in OURS.items():
                    error, seconds, qparams = our_error(blocks, layer, own, held_out, bits, args.group_size, changes)
                    note(layer, bits, name, error, seconds)
                    if name in OF_MORE:
                        error, seconds, _ = our_error(blocks, layer, more, held_out, bits, args.group_size, changes)
                        note(layer, bits, f"{name} of {args.more} times", error, seconds)
                start = {"": blocks.tensors(layer), "awq + ": scaled(blocks, layer, qparams)}
                for name, settings in theirs.items():
                    for prefix, tensors in start.items():
                        made = their_error(blocks, layer, tensors, own, held_out, bits, args.group_size, settings)
                        note(layer, bits, f"{prefix}{name}", *made)
    for (bits, name), each in found.items():
        ratios = [math.log(error / gptq) for (error, _), (gptq, _) in zip(each, found[bits, "gptq"], strict=True)]
        mean, seconds = math.exp(sum(ratios) / len(ratios)), sum(seconds for _, seconds in each) / len(each)
        least, most = math.exp(min(ratios)), math.exp(max(ratios))
        print(f"{bits} bits, {name}: {mean:.3f} of gptq's, from {least:.3f} to {most:.3f}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
