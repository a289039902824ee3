"""FlatQuant beside the reference's own code: held-out error of single blocks, as deployed, and seconds per step.

Usage: peer_flatquant.py --reference FOLDER [NAME=CHANGES ...] [--model resources/demo-model] [--layers 0 1] [--seeds 0 1 2].
FOLDER: a checkout of ruikangliu/Quantized-Reasoning-Models, whose training loop, modules and quantizers run as they are but for
the device (its text says `cuda`) and float32 throughout; ours gets the same weights in float32, too. CHANGES: settings of our
transform as JSON; without any, its defaults.

Both see the float model's states of the same sequences in W4A4KV4 (weights symmetric by row, the rest asymmetric by token), for
15 epochs in batches of 4 (`--epochs`, `--samples`), and are judged on as many other sequences:
|block' - block|² / |block - input|². Ours holds some of the former out; then it takes as many more epochs of the rest, so that
both take equal numbers of steps. The interval is of blocks (95 %, Student's t of their mean logarithms); one needs several.
"""

import argparse
import importlib
import json
import logging
import math
import shutil
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from held_out import block_error, calibrated, float_states, seeded
from peer_models import ROOT
from ptqflow.devices.device import select
from ptqflow.methods.layer import quantize_layer
from ptqflow.methods.transforms.flatquant_settings import FlatQuantTransform
from ptqflow.modeling.blocks import Blocks, batches, forward
from scipy import stats
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "methods/flatquant/flatquant"
CHANGED = {".cuda()": "", 'device="cuda"': 'device="cpu"'}  # of the reference's text
BATCH = 4


@contextmanager
def reference_package(checkout: Path) -> Iterator[None]:
    """The reference's package as `flatquant`, on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(checkout / PACKAGE, Path(folder) / "flatquant")
        for file in Path(folder).rglob("*.py"):
            text = file.read_text()
            for old, new in CHANGED.items():
                text = text.replace(old, new)
            file.write_text(text)
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            sys.path.remove(folder)


def in_float32(model: Path, folder: Path) -> Path:
    """The model in float32, so that what ours stores beside its weights is not rounded either."""
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


class ReferenceBlock(nn.Module):
    """A decoder block of the reference's attention and MLP, in the signature its training loop calls."""

    def __init__(self, block: nn.Module, config: Any, arguments: Namespace, positions: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        llama = config.model_type == "llama"
        module = importlib.import_module(f"flatquant.model_tools.{'llama31_utils' if llama else 'qwen_utils'}")
        kind = "Llama" if llama else "Qwen2"
        for name in ("num_attention_heads", "num_key_value_heads", "hidden_size"):  # as modules of older transformers have them
            setattr(block.self_attn, name, getattr(config, name))
        self.self_attn = getattr(module, f"FlatQuant{kind}Attention")(arguments, block.self_attn)
        self.self_attn.num_heads, self.self_attn.num_key_value_heads = config.num_attention_heads, config.num_key_value_heads
        self.self_attn.hidden_size = config.hidden_size
        self.mlp = getattr(module, f"FlatQuant{kind}MLP")(arguments, block.mlp)
        self.input_layernorm, self.post_attention_layernorm = block.input_layernorm, block.post_attention_layernorm
        self.positions = positions

    def forward(self, x: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None) -> tuple[Tensor]:
        """x [batch, tokens, hidden]."""
        normed = self.input_layernorm(x)
        cosines, sines = self.positions
        x = x + self.self_attn(normed, attention_mask, position_ids, None, False, False, None, (cosines, sines))[0]
        return (x + self.mlp(self.post_attention_layernorm(x)),)


class OneBlock(nn.Module):
    """A model of one block, as far as the reference's training loop looks; its embedding passes states through."""

    def __init__(self, block: ReferenceBlock, config: Any, tokens: int) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([block])
        self.model.embed_tokens = nn.Identity()
        self.config, self.seqlen = Namespace(use_cache=False, hidden_size=config.hidden_size), tokens

    def forward(self, states: Tensor) -> Tensor:
        """States [batch, tokens, hidden]."""
        mask = torch.full((self.seqlen, self.seqlen), torch.finfo(torch.float32).min).triu(1)[None, None]
        output: Tensor = self.model.layers[0](states, attention_mask=mask, position_ids=None)[0]
        return output


def reference_error(blocks: Blocks, layer: int, states: Tensor, held_out: Tensor, epochs: int, seed: int) -> tuple[float, float]:
    """The reference's error on held-out states, and its seconds per step."""
    from flatquant import flat_utils, quant_utils, train_utils, utils  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        settings = Namespace(
            w_bits=4, w_asym=False, a_bits=4, a_asym=True, k_bits=4, k_asym=True, v_bits=4, v_asym=True, q_bits=16, q_asym=False,
            tp=1, lwc=True, lac=True, cali_trans=True, add_diag=True, diag_init="sq_style", diag_alpha=0.3, direct_inv=True,
            separate_vtrans=False, deactive_amp=True, warmup=False, flat_lr=5e-3, epochs=epochs, cali_bsz=BATCH,
            nsamples=len(states), exp_dir=folder,
        )  # fmt: skip
        utils.seed_everything(seed)
        tensors, positions = blocks.tensors(layer), blocks.positions(states.shape[1])
        block = ReferenceBlock(blocks.build(layer, tensors), blocks.config, settings, positions).float()
        model = OneBlock(block, blocks.config, states.shape[1])
        start = time.process_time()
        train_utils.cali_flat_quant(
            settings, model, [(x[None],) for x in states], torch.device("cpu"), logging.getLogger("flatquant")
        )
        seconds = (time.process_time() - start) / (epochs * (len(states) // BATCH))
    with torch.no_grad():
        flat_utils.reparameterize_model(Namespace(model=model.model, config=Namespace(num_hidden_layers=1)))
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear) and name.endswith("_proj.linear"):
                quantizer = quant_utils.WeightQuantizer()
                quantizer.configure(4, groupsize=-1, sym=True, mse=False)
                quantizer.find_params(module.weight.data)
                module.weight.data = quantizer.quantize(module.weight.data)
        exact = blocks.build(layer, tensors)
        lost = total = 0.0
        for part in batches(*held_out.shape[:2]):
            target = forward(exact, held_out[part], positions)
            lost += (model(held_out[part]) - target).double().square().sum().item()
            total += (target - held_out[part]).double().square().sum().item()
    return lost / total, seconds


def our_error(
    blocks: Blocks,
    layer: int,
    states: Tensor,
    held_out: Tensor,
    absmax: Mapping[int, Mapping[str, Tensor]],
    changes: Mapping[str, Any],
    seed: int,
) -> tuple[float, float, list[dict[str, Any]]]:
    """Ours likewise; and the rows of its losses table."""
    recipe = seeded({"preset": "flatquant-w4a4kv4", "transform": changes}, seed)
    device, own = select("cpu"), states.clone()
    start = time.process_time()
    with torch.no_grad(), device.true_float32():
        qparams, _, losses = quantize_layer(blocks, layer, own, absmax.get(layer, {}), recipe, device, True)
    seconds = (time.process_time() - start) / max(1, sum(row["measure"] == "loss" for row in losses))
    return block_error(blocks, layer, qparams, recipe, held_out), seconds, losses


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="*", metavar="NAME=CHANGES", help="settings of our transform, as JSON")
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=ROOT / "resources/demo-model")
    parser.add_argument("--layers", nargs="+", type=int)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int, default=128, help="calibration sequences; as many more are held out")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    ours = {name: json.loads(changes) for name, _, changes in (text.partition("=") for text in args.changes)} or {"ours": {}}
    with tempfile.TemporaryDirectory() as temporary, reference_package(args.reference):
        model = in_float32(args.model, Path(temporary) / "float32")
        blocks, states, absmax = calibrated(model, 2 * args.samples, args.length, Path(temporary))
        ratios: dict[str, dict[int, list[float]]] = {name: {} for name in ours}
        for layer, entering in float_states(blocks, states):
            if args.layers is not None and layer not in args.layers:
                continue
            own, held_out = entering[: args.samples], entering[args.samples :]
            for seed in args.seeds:
                theirs, seconds = reference_error(blocks, layer, own.clone(), held_out, args.epochs, seed)
                print(f"block {layer} seed {seed} reference: {theirs:.4e}, {seconds:.3f} s per step", flush=True)
                for name, changes in ours.items():
                    transform = FlatQuantTransform.model_validate({"name": "flatquant", **changes})
                    epochs = round(args.epochs * args.samples / (args.samples - transform.held_out_of(args.samples)))
                    error, seconds, losses = our_error(blocks, layer, own, held_out, absmax, {"epochs": epochs, **changes}, seed)
                    steps = sum(row["measure"] == "loss" for row in losses)
                    ratios[name].setdefault(layer, []).append(math.log(error / theirs))
                    compared = f"{error:.4e}, {error / theirs:.3f} of the reference's, {steps} steps, {seconds:.3f} s each"
                    print(f"block {layer} seed {seed} {name}: {compared}", flush=True)
    for name, found in ratios.items():
        means, logs = [statistics.fmean(of) for of in found.values()], [ratio for of in found.values() for ratio in of]
        mean, least, most = (math.exp(x) for x in (statistics.fmean(means), min(logs), max(logs)))
        ends = stats.ttest_1samp(means, 0).confidence_interval() if len(means) > 1 else ()
        interval = f" [{', '.join(f'{math.exp(end):.3f}' for end in ends)}]" if ends else ""
        print(f"{name}: geometric mean of the ratio {mean:.3f}{interval}, from {least:.3f} to {most:.3f}")


if __name__ == "__main__":
    main()
