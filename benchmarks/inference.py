"""Latency of a model and its quantized checkpoints in one engine (`transformers-int`); where the time of linears goes.

Usage: inference.py [--platform gpu] [--layers 2]. A random Qwen2 of shapes of a 7B model's blocks on a GPU, of 111M parameters
on a CPU. `float` is the compute dtype of the platform and, on a CPU, bfloat16 beside it. `fake` is emulation: it
says what the arithmetic of the quantized model costs in accuracy, never what it gains in speed.
"""

import argparse
import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peer_models import MIDDLE, OF_7B, VOCABULARY, Shape, random
from ptqflow.devices.device import Device, select
from ptqflow.devices.products import around
from ptqflow.devices.weight_only import Int4Weight, TinygemmWeight, int4_weight
from ptqflow.engines import protocol
from ptqflow.engines.protocol import Timing
from ptqflow.modeling.input_scheme import InputQuantizer, InputScheme, by_steps, quantizing
from ptqflow.modeling.integer_linear import IntegerLinear, integer_linear, scaled
from ptqflow.modeling.shapes import kronecker_sides
from ptqflow.numerics.convention import Grid
from ptqflow.presets import resolve
from ptqflow.stages import export
from ptqflow.stages import quantize as quantize_stage
from torch import nn

RECIPES: dict[str, dict[str, Any]] = {
    "W8A8": {"preset": "rtn-w8a8", "scheme": {"input_activations": {"symmetric": True}}},
    "W4A16": {"preset": "rtn-w4a16", "scheme": {"weights": {"group_size": 128}}},
}
FORM = "compressed-tensors"
WORKLOADS = {"cpu": ((1, 128), (4, 128)), "cuda": ((1, 512), (8, 512), (1, 2048))}  # batch, prompt tokens
W4_ROWS = {"cpu": (1, 4, 32, 128), "cuda": (1, 16, 64, 128, 256, 512, 2048)}
RATIO = "unpacked / packed"
REPETITIONS = 5


def seconds_of(device: Device, action: Callable[[], Any], repetitions: int = 10) -> float:
    """Median seconds of an action, after three that are not counted."""
    times = []
    for _ in range(repetitions + 3):
        device.synchronize()
        start = time.perf_counter()
        action()
        device.synchronize()
        times.append(time.perf_counter() - start)
    return float(torch.tensor(times[3:]).median())


def checkpoints(platform: str, folder: Path, shape: Shape) -> Iterator[tuple[str, Path]]:
    """Name and folder of the float model, and of the fake and the real form of every recipe."""
    model = folder / "model"
    random(model, shape)
    yield "float", model
    for name, entry in RECIPES.items():
        recipe, qparams = resolve(entry), folder / name / "qparams.safetensors"
        paths = {"qparams": qparams, "diagnostics": folder / name / "diagnostics.parquet", "losses": None, "calibration": None}
        paths |= {"model": model / "manifest.json", "tokens": folder / "tokens.parquet"}
        arguments = Namespace(platform=platform, code=None, **paths)
        quantize_stage.run(quantize_stage.Settings(recipe=recipe, chunk=0, layers=(0, shape.layers)), arguments)
        for form in ("fake", FORM):
            output = folder / name / form / "manifest.json"
            export.run(
                export.Settings(recipe=recipe, form=form),
                Namespace(model=model / "manifest.json", qparams=[qparams], output=output, notices=None, code=None),
            )
            yield f"{name} {'fake (emulation)' if form == 'fake' else 'integers'}", output.parent


def timed(device: Device, folder: Path, shape: Shape) -> Iterator[dict[str, Any]]:
    """Median seconds of prefill and of a decode step, for every checkpoint and workload."""
    for name, place in checkpoints(device.platform, folder, shape):
        dtypes = [device.compute_dtype]
        if name == "float" and device.module is None:
            dtypes.append(torch.bfloat16)
        for dtype in dtypes:
            engine: Any = protocol.load("transformers-int", place, replace(device, compute_dtype=dtype))
            for batch, tokens in WORKLOADS[device.torch_device.type]:
                prompts = torch.randint(3, VOCABULARY, (batch, tokens), generator=torch.Generator().manual_seed(0))
                engine.time(prompts[:, :32], 1)
                runs = [engine.time(prompts, 8) for _ in range(REPETITIONS)]
                yield {
                    "checkpoint": name if dtype == device.compute_dtype else f"{name}, bfloat16",
                    "batch": batch,
                    "tokens": tokens,
                    "prefill": _median(runs, 0),
                    "decode": _median(runs, 1) / 8,
                    "kernels": engine.settings()["kernels"],
                }
            del engine


def _median(runs: list[list[Timing]], phase: int) -> float:
    return sorted(run[phase].seconds for run in runs)[len(runs) // 2]


def linear(device: Device, shape: Shape, rows: int) -> dict[str, float]:
    """Seconds of a W8A8 linear [intermediate, hidden] on `rows` tokens, step by step and as taken, and of its parts by either."""
    generator, out, columns = torch.Generator().manual_seed(0), shape.intermediate, shape.hidden
    where, dtype = device.torch_device, device.compute_dtype
    weight = torch.randint(-127, 128, (out, columns), generator=generator, dtype=torch.int8).to(where)
    x = torch.randn(rows, columns, generator=generator).to(where, dtype)
    scheme, scales = InputScheme(Grid(8, symmetric=True)), torch.rand(out, 1).to(where)
    by_definition = IntegerLinear(weight, scales, None, InputQuantizer(scheme))
    plain = nn.Linear(columns, out, bias=False, device=where, dtype=dtype)
    inputs, chosen = scheme.quantized(x), integer_linear(weight, scales, None, scheme, 8, dtype, [])
    product = by_definition.kernel.run
    given = (product(inputs.integers, weight), None, inputs.zero_point, inputs.scale, scales.flatten(), None, dtype)
    actions = {
        "float": lambda: plain(x),
        "W8A8, step by step": lambda: by_definition(x.view_as(x)),  # another tensor each time: none is quantized before
        "quantize": lambda: by_steps(x, scheme),
        "product": lambda: product(inputs.integers, weight),
        "scale": lambda: scaled(*given),
    }
    if isinstance(chosen, IntegerLinear) and chosen.scaling and chosen.inputs.kernel:
        taken = f"{chosen.inputs.kernel.name}, {chosen.scaling.name}"
        actions[f"W8A8, as taken ({taken})"] = lambda: chosen(x.view_as(x))
    if (kernels := around(where.type)) is not None:  # taken or not
        actions |= {
            f"quantize, {kernels.NAME}": lambda: kernels.quantized(x, *scheme.grid[:2], scheme.clip, None, None),
            f"scale, {kernels.NAME}": lambda: kernels.scaled(*given),
        }
    with torch.inference_mode():
        return {name: seconds_of(device, action) for name, action in actions.items()}


def transform(device: Device, shape: Shape, rows: int) -> dict[str, float]:
    """Seconds of FlatQuant's transform and 4-bit quantization of `rows` tokens, step by step and in one kernel, taken or not."""
    generator, where, dtype = torch.Generator().manual_seed(0), device.torch_device, device.compute_dtype
    found = {}
    for columns in (shape.hidden, shape.intermediate):
        sides = kronecker_sides("down", columns, 1, 1)
        turns = [torch.linalg.qr(torch.randn(side, side, generator=generator))[0].to(where, dtype) for side in sides]
        scheme = InputScheme(Grid(4, symmetric=True), None, None, 0.9, *turns)
        x = torch.randn(rows, columns, generator=generator).to(where, dtype)
        name = f"{sides[0]} x {sides[1]}"
        found[f"{name}, step by step"] = seconds_of(device, partial(by_steps, x, scheme))
        kernels, taken = around(where.type), quantizing(scheme, columns, dtype, where)
        if kernels is None or taken is None:
            continue
        try:
            in_one = partial(kernels.quantized, x, *scheme.grid[:2], scheme.clip, *turns)
            found[f"{name}, {kernels.NAME} (as taken: {taken.name})"] = seconds_of(device, in_one)
        except Exception as error:  # it does not compile for these sides
            print(f"{name}, {kernels.NAME}: {type(error).__name__}", flush=True)
    return found


def four_bits(device: Device, shape: Shape, rows: int) -> dict[str, float]:
    """Seconds of a W4A16 linear [intermediate, hidden] on `rows` tokens: by torch's packed kernel, unpacked, and as taken.

    `unpacked / packed` below 1: unpacking is faster; `TINYGEMM_ROWS` is where that begins on a GPU.
    """
    generator, out, columns = torch.Generator().manual_seed(0), shape.intermediate, shape.hidden
    where, dtype, groups = device.torch_device, device.compute_dtype, shape.hidden // 128
    integers = torch.randint(0, 16, (out, columns), generator=generator, dtype=torch.uint8)
    scale, zero = torch.rand(out, groups, generator=generator), torch.full((out, groups), 8, dtype=torch.uint8)
    x = torch.randn(rows, columns, generator=generator).to(where, dtype)
    plain = nn.Linear(columns, out, bias=False, device=where, dtype=dtype)
    taken, unpacked = int4_weight(integers, scale, zero, dtype, where), Int4Weight(integers, scale, zero, where)
    actions: dict[str, Callable[[], Any]] = {
        "float": lambda: plain(x),
        f"as taken ({taken.kernel})": lambda: taken.multiply(x),
        "unpacked": lambda: unpacked.multiply(x),
    }
    operators: Any = torch.ops.aten
    if isinstance(taken, TinygemmWeight):
        actions["unpacked"] = lambda: x @ taken.weight().T
        actions["packed"] = lambda: operators._weight_int4pack_mm(x, taken.packed, taken.group, taken.scales)
    elif where.type == "cpu":
        packed = operators._convert_weight_to_int4pack_for_cpu(integers.to(torch.int32), 1)
        scales = torch.stack([scale.T, torch.zeros_like(scale.T)], -1).contiguous()
        actions["packed"] = lambda: operators._weight_int4pack_mm_for_cpu(x, packed, 128, scales)
    with torch.inference_mode():
        found = {name: seconds_of(device, action) for name, action in actions.items()}
    return found | ({RATIO: found["unpacked"] / found["packed"]} if "packed" in found else {})


def main() -> None:
    """Print the tables, a row of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", default="cpu")
    parser.add_argument("--layers", type=int, default=None)
    args = parser.parse_args()
    device = select(args.platform)
    shape = MIDDLE if device.module is None else replace(OF_7B, layers=2, sequences=4)
    shape = replace(shape, layers=args.layers or shape.layers)
    with tempfile.TemporaryDirectory() as folder:
        for row in timed(device, Path(folder), shape):
            print(json.dumps(row), flush=True)
    for rows in (1, 64, 2048):
        print(json.dumps({"rows": rows} | linear(device, shape, rows) | transform(device, shape, rows)), flush=True)
    for rows in W4_ROWS[device.torch_device.type]:
        print(json.dumps({"W4A16, rows": rows} | four_bits(device, shape, rows)), flush=True)


if __name__ == "__main__":
    main()
