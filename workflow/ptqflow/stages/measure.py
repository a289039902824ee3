"""Latency of prefill and decode, per batch size and length: every timed repetition, and the parts of one profiled run."""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from ptqflow.datamodel import Distinct, Model
from ptqflow.errors import ConfigError
from ptqflow.progress import Progress, progress

if TYPE_CHECKING:
    from ptqflow.engines.protocol import Engine

_PROMPT_SEED = 0
_PROFILED_STEPS = 4  # of decoding: each is like the next
Count = Annotated[int, Field(ge=1)]
Workload = Literal["customary", "reasoning"]
# Prompt and new tokens: what vendors quote their throughput on, and a question with a long chain of thought.
WORKLOADS: dict[Workload, tuple[int, int]] = {"customary": (3500, 1500), "reasoning": (128, 4096)}


class Shape(NamedTuple):
    """What is asked at once, and the workload that it is."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    workload: str | None = None


class Timed(Model):
    """Every combination of `batch_sizes` with `prompt_tokens` and with `workloads` is timed `repetitions` times.

    `warmup` untimed ones come first; `parts`: one more is profiled, for where its time goes.
    """

    batch_sizes: Annotated[list[Count], Field(min_length=1), Distinct] = [1, 8]
    prompt_tokens: Annotated[list[Count], Distinct] = [64, 256]
    new_tokens: Count = 32
    workloads: Annotated[list[Workload], Distinct] = []
    parts: bool = True
    warmup: Annotated[int, Field(ge=0)] = 1
    repetitions: Count = 5
    engine: str = "transformers"

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.prompt_tokens and not self.workloads:
            raise ValueError("nothing would be timed: give prompt_tokens or workloads")
        return self

    def shapes(self) -> list[Shape]:
        """What is timed, in order."""
        grid = [Shape(batch, prompt, self.new_tokens) for batch in self.batch_sizes for prompt in self.prompt_tokens]
        return grid + [Shape(batch, *WORKLOADS[name], name) for name in self.workloads for batch in self.batch_sizes]

    def longest(self) -> Shape:
        """The one with the most tokens in a sequence."""
        return max(self.shapes(), key=lambda shape: shape.prompt_tokens + shape.new_tokens)


class Settings(Timed):
    """`tensor_parallel`: devices that share the model's tensors."""

    tensor_parallel: Count = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--platform", required=True, help="where to run: cpu, gpu or ascend")
    parser.add_argument("--checkpoint", required=True, type=Path, help="manifest.json of the model or checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="Parquet file: one row per phase and timed repetition")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Write one row per phase, batch size, prompt length and repetition."""
    # The Snakefile imports this module for its Settings: what is slow to import comes here.
    import torch

    from ptqflow.artifacts.hashing import HashCache
    from ptqflow.artifacts.manifests import Manifest
    from ptqflow.artifacts.provenance import provenance
    from ptqflow.artifacts.schemas import LATENCY
    from ptqflow.artifacts.tables import write_rows
    from ptqflow.devices.device import select
    from ptqflow.devices.roofline import int8_rate, measured
    from ptqflow.engines import work
    from ptqflow.engines.protocol import load

    device = select(args.platform)
    Manifest.read(args.checkpoint).verify(args.checkpoint.parent)
    roofline = measured(device)  # before the model takes memory
    start = time.perf_counter()
    engine = load(settings.engine, args.checkpoint.parent, device, settings.tensor_parallel)
    device.synchronize()
    loaded = time.perf_counter() - start
    longest = settings.longest()
    if engine.max_length is not None and longest.prompt_tokens + longest.new_tokens > engine.max_length:
        raise ConfigError(
            f"{f'workload {longest.workload}: ' if longest.workload else ''}prompt_tokens {longest.prompt_tokens} + new_tokens "
            f"{longest.new_tokens} exceed the model's {engine.max_length} positions; use shorter ones"
        )
    config = json.loads((args.checkpoint.parent / "config.json").read_text())
    cached = work.cache_bytes(config, device.compute_dtype.itemsize)
    memory = engine.memory(cached)
    cached = int(cached * memory.cache_share)
    files = sum(path.stat().st_size for path in args.checkpoint.parent.glob("*.safetensors"))
    weights = files if memory.weight_bytes is None else memory.weight_bytes
    stored = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"))
    held = device.compute_dtype if memory.weight_bytes is not None else stored  # of what is not quantized
    read = work.read_bytes(config, weights, held.itemsize)
    facts = {"load_seconds": loaded, "weight_bytes": weights, "cache_tokens": memory.cache_tokens}
    devices = settings.tensor_parallel if device.module is not None else 1  # ranks on a CPU share the one
    rate = int8_rate(device) if memory.multiplies_int8 else roofline.flops
    facts |= {"device_flops": devices * rate, "device_bandwidth": devices * roofline.bandwidth}

    def asked(row: dict[str, Any]) -> dict[str, Any]:
        batch, prompt = row["batch_size"], row["prompt_tokens"]
        if row["phase"] == "prefill":
            needed = work.prefill(config, batch, prompt, read)
        else:
            needed = work.decode(config, batch, prompt, row["new_tokens"], read, cached)
        return {"flops": needed.flops, "moved_bytes": needed.moved}

    before = device.readings()
    runs = len(settings.shapes()) * (settings.warmup + settings.repetitions)
    with progress(f"measure {args.checkpoint.parent}", runs, "runs") as bar:
        rows = [row | facts | asked(row) for shape in settings.shapes() for row in measure(engine, shape, settings, bar)]
    metadata = provenance(
        "measure",
        settings.model_dump(mode="json"),
        args.code or "",
        device=device.name,
        threads=torch.get_num_threads(),
        engine=engine.settings(),
        readings={"before": before, "after": device.readings()},
        inputs={"checkpoint": HashCache().sha256(args.checkpoint)},
    )
    write_rows(args.output, LATENCY, rows, metadata)


def measure(engine: "Engine", shape: Shape, settings: Settings, bar: Progress) -> list[dict[str, Any]]:
    """Time one shape, and profile it once. Prompts are random tokens of a fixed seed, the same in every repetition."""
    import torch

    generator = torch.Generator().manual_seed(_PROMPT_SEED)
    prompts = torch.randint(engine.vocab_size, (shape.batch_size, shape.prompt_tokens), generator=generator)
    rows = []
    for repetition in range(-settings.warmup, settings.repetitions):
        timings = engine.time(prompts, shape.new_tokens)
        bar.update(1)
        if repetition >= 0:
            rows += [
                _row(shape, timing.phase) | {"repetition": repetition, "seconds": timing.seconds, "peak_bytes": timing.peak_bytes}
                for timing in timings
            ]
    if settings.parts:
        peak = max(row["peak_bytes"] for row in rows)
        for part in engine.parts(prompts, min(shape.new_tokens, _PROFILED_STEPS)):
            found = {"part": part.part, "seconds": part.seconds, "kernels": ", ".join(part.kernels)}
            rows.append(_row(shape, part.phase) | {"repetition": 0, "peak_bytes": peak} | found)
    return rows


def _row(shape: Shape, phase: str) -> dict[str, Any]:
    new = shape.new_tokens if phase == "decode" else 0
    return shape._asdict() | {"phase": phase, "new_tokens": new, "part": None, "kernels": None}
