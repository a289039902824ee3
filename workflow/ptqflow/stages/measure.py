"""Latency of prefill and decode, per batch size and prompt length: every timed repetition as it was."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ptqflow.datamodel import Model
from ptqflow.errors import ConfigError
from ptqflow.progress import Progress, progress

if TYPE_CHECKING:
    from ptqflow.engines.protocol import Engine

_PROMPT_SEED = 0
Count = Annotated[int, Field(ge=1)]


class Settings(Model):
    """Every combination of `batch_sizes` and `prompt_tokens` is timed `repetitions` times after `warmup` untimed ones."""

    batch_sizes: list[Count] = Field(default=[1, 8], min_length=1)
    prompt_tokens: list[Count] = Field(default=[64, 256], min_length=1)
    new_tokens: Count = 32
    warmup: Annotated[int, Field(ge=0)] = 1
    repetitions: Count = 5
    engine: str = "transformers"


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
    from ptqflow.engines.protocol import load

    device = select(args.platform)
    Manifest.read(args.checkpoint).verify(args.checkpoint.parent)
    engine = load(settings.engine, args.checkpoint.parent, device)
    longest = max(settings.prompt_tokens) + settings.new_tokens
    if engine.max_length is not None and longest > engine.max_length:
        raise ConfigError(
            f"prompt_tokens {max(settings.prompt_tokens)} + new_tokens {settings.new_tokens} exceed the model's "
            f"{engine.max_length} positions; use shorter ones"
        )
    shapes = [(batch, prompt) for batch in settings.batch_sizes for prompt in settings.prompt_tokens]
    with progress("measure", len(shapes) * (settings.warmup + settings.repetitions), "runs") as bar:
        rows = [row for batch, prompt in shapes for row in measure(engine, batch, prompt, settings, bar)]
    metadata = provenance(
        "measure",
        settings.model_dump(mode="json"),
        args.code or "",
        device=device.name,
        threads=torch.get_num_threads(),
        engine=engine.settings(),
        inputs={"checkpoint": HashCache().sha256(args.checkpoint)},
    )
    write_rows(args.output, LATENCY, rows, metadata)


def measure(engine: "Engine", batch_size: int, prompt_tokens: int, settings: Settings, bar: Progress) -> list[dict[str, Any]]:
    """Time one shape. Prompts are random tokens of a fixed seed, the same in every repetition."""
    import torch

    generator = torch.Generator().manual_seed(_PROMPT_SEED)
    prompts = torch.randint(engine.vocab_size, (batch_size, prompt_tokens), generator=generator)
    rows = []
    for repetition in range(-settings.warmup, settings.repetitions):
        timings = engine.time(prompts, settings.new_tokens)
        bar.update(1)
        if repetition < 0:
            continue
        rows += [
            {
                "phase": timing.phase,
                "batch_size": batch_size,
                "prompt_tokens": prompt_tokens,
                "new_tokens": settings.new_tokens if timing.phase == "decode" else 0,
                "repetition": repetition,
                "seconds": timing.seconds,
                "peak_bytes": timing.peak_bytes,
            }
            for timing in timings
        ]
    return rows
