"""What every engine offers: generate, loglikelihoods, score, time.

An engine is a module `ptqflow.engines.<name>_engine` with `load`; one that forms its batches itself says `FORMS_BATCHES = True`:
it is asked with `batch_size` None, and with a number, the most that it has in hand at once, where the noise of other batches is
measured. One that can share a model's tensors among devices says `SHARES_TENSORS = True`, and its `load` takes their number.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from ptqflow.devices.device import Device
from ptqflow.engines.registry import module_of, refuse_ranks
from ptqflow.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `top_p` 1 and `top_k` 0 are off; `max_new_tokens` per completion."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


Reason = Literal["stop", "length", "not_finite"]


@dataclass(frozen=True)
class Completion:
    """Generated token ids, the stop token included, and why generation ended. Never padded. Equal where these are.

    `not_finite`: the next token's logits were no numbers, so that there is nothing to choose from (the model collapsed).
    `logprob`: of the tokens under the model, summed, in nats: before temperature, top-k and top-p.
    `seconds`: its share of the engine's wall time, each step's being shared evenly by the completions that it served.
    """

    tokens: tuple[int, ...]
    finish_reason: Reason
    logprob: float = field(compare=False)
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Likelihood:
    """log p(continuation | context) in nats, NaN for a collapsed model; and whether greedy decoding produces the continuation."""

    logprob: float
    greedy: bool


Phase = Literal["prefill", "decode"]


@dataclass(frozen=True)
class Part:
    """Seconds of a profiled phase that went into one part of the linears' work, and the kernels that multiplied there."""

    phase: Phase
    part: str
    seconds: float
    kernels: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """Bytes of the weights as they are held, None where the engine does not say; tokens that its KV cache has room for.

    `multiplies_int8`: linears multiply integers with the device's own product for them. `cache_share`: what a cached token takes
    of its bytes in the compute dtype.
    """

    weight_bytes: int | None
    cache_tokens: int
    multiplies_int8: bool = False
    cache_share: float = 1.0


@dataclass(frozen=True)
class Timing:
    """One timed phase: wall seconds between device synchronizations, and peak memory in bytes."""

    phase: Phase
    seconds: float
    peak_bytes: int


class Engine(Protocol):
    """A loaded checkpoint that serves requests.

    Each method yields results as they finish. Those of the requests in `skip` are known: they are not asked, but batches are
    formed as though they were, so that a job that goes on computes what it would have computed without a break.
    """

    tokenizer: Any
    max_length: int | None
    vocab_size: int

    def settings(self) -> dict[str, Any]:
        """What changes its numbers and is no file of the checkpoint, as JSON data: number type, attention, parallelism, ..."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        batch_size: int | None,
        skip: Collection[int] = (),
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index of the prompt, its completion). A completion depends on its prompt and seed only.

        That holds up to floating-point: batches of another shape differ in the last bit, which float32 models rarely notice,
        while bfloat16 and fake quantizers (a value next to a rounding boundary) now and then choose another token.
        """

    def loglikelihoods(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        batch_size: int | None,
        skip: Collection[int] = (),
    ) -> Iterator[dict[int, Likelihood]]:
        """For pairs of token ids, neither empty, yield those of each batch by the pair's index."""

    def score(
        self, windows: torch.Tensor, batch_size: int | None, skip: Collection[int] = ()
    ) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
        """For token windows [n, length], yield (their indices, float64 -log p(token | its prefix) [rows, length-1] in nats)."""

    def time(self, prompts: torch.Tensor, new_tokens: int) -> list[Timing]:
        """Time one prefill of prompts [batch, tokens], and `new_tokens` decode steps after it."""

    def parts(self, prompts: torch.Tensor, new_tokens: int) -> list[Part]:
        """Where the time of the same phases goes; nothing, where the engine's linears cannot be told apart."""

    def memory(self, cache_bytes: int) -> Memory:
        """What is held, and what there is room for, at `cache_bytes` per cached token."""


def room_for(prompt: Sequence[int], positions: int | None, wanted: int) -> int:
    """How many of the `wanted` new tokens fit behind a prompt into the model's positions. Raises ConfigError where none does."""
    room = wanted if positions is None else positions - len(prompt)
    if room < 1:
        raise ConfigError(
            f"a prompt of {len(prompt)} tokens leaves no room in the model's {positions} positions; "
            "leave its item out, or use a model with more positions"
        )
    return min(room, wanted)


def load(name: str, folder: Path, device: Device, tensor_parallel: int = 1) -> Engine:
    """The engine `name` with the checkpoint in `folder`, shared by so many devices.

    Raises ConfigError for an unknown name, and where the engine cannot share.
    """
    refuse_ranks(name, tensor_parallel)
    shared = {"tensor_parallel": tensor_parallel} if tensor_parallel > 1 else {}
    engine: Engine = import_module(f"ptqflow.{module_of(name)}").load(folder, device, **shared)
    return engine
