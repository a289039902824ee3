"""Transformers: the reference engine, for every checkpoint it can load, ours with fake quantizers included.

Decoding is our own short loop around the model's forward with a dynamic cache: rows that have finished leave the batch, which
`generate` does not do, and reasoning completions differ in length by an order of magnitude.
"""

import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.quantizers import auto

from ptqflow.devices.device import Device
from ptqflow.engines import packing, profile
from ptqflow.engines.protocol import Completion, Likelihood, Memory, Part, Reason, Sampling, Timing, room_for
from ptqflow.engines.sampling import Sampler
from ptqflow.modeling import dimensions
from ptqflow.modeling.quantizer import register
from ptqflow.system import reading

_LOGITS_AT_ONCE = 1 << 27  # elements: 256 MiB of bfloat16 logits (512 MiB in float32) per scoring batch


@dataclass
class _Request:
    """A prompt by its index, the most tokens that may follow, and what was chosen so far."""

    index: int
    prompt: Sequence[int]
    limit: int
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    seconds: float = 0.0


class TransformersEngine:
    """A model on its device, in the platform's compute dtype, with its tokenizer.

    Where rotary factors `switch` (`packing.switch`), the stock module chooses them by the longest sequence of a batch.
    """

    def __init__(self, model: Any, tokenizer: Any, device: Device, folder: Path) -> None:
        self.model, self.tokenizer, self.device, self.folder = model, tokenizer, device, folder
        config = model.config.get_text_config()
        self.vocab_size: int = config.vocab_size
        self.max_length = dimensions.positions(config.to_dict())
        self.stop_tokens = _stop_tokens(model, tokenizer)
        self.switch = packing.switch(config)

    def settings(self) -> dict[str, Any]:
        """Number type, attention, and where the blocks are."""
        places = getattr(self.model, "hf_device_map", {"": str(self.model.device)})
        return {
            "engine": "transformers",
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "attention": self.model.config._attn_implementation,
            "devices": sorted({str(place) for place in places.values()}),
        }

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        batch_size: int,
        skip: Collection[int] = (),
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index of the prompt, its completion) as they finish, longest prompts first.

        `prompts` are token ids. Prompts of similar length share a batch, so that little is padded. A completion ends at a stop
        token, at `sampling.max_new_tokens`, or where the model has no more positions. Raises ConfigError for a prompt that
        leaves none.
        """
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        limits = [room_for(prompt, self.max_length, sampling.max_new_tokens) for prompt in prompts]
        sampler = Sampler(sampling)
        for start in range(0, len(order), batch_size):
            rows = [row for row in order[start : start + batch_size] if row not in skip]
            requests = [_Request(row, prompts[row], limits[row], torch.Generator().manual_seed(seeds[row])) for row in rows]
            for alike in self._alike(requests, [len(prompts[row]) for row in rows]):
                yield from self._decode(alike, sampler)

    def _alike(self, rows: Sequence[Any], lengths: Sequence[int]) -> list[list[Any]]:
        """Rows of sequences of so many tokens, in order, apart where they have other rotary factors; no part is empty."""
        far = [self.switch is not None and length > self.switch for length in lengths]
        return [[row for row, its in zip(rows, far, strict=True) if its == kind] for kind in sorted(set(far), reverse=True)]

    def _decode(self, alive: list[_Request], sampler: Sampler) -> Iterator[tuple[int, Completion]]:
        """One batch, left-padded. Those whose next token has other rotary factors begin anew at the end, as a batch of their own:
        what is cached of them was turned by the factors so far.
        """
        sequences, turning = [[*request.prompt, *request.tokens] for request in alive], list[_Request]()
        width = max(map(len, sequences))
        inputs = torch.zeros(len(alive), width, dtype=torch.long)  # what pads is masked: any valid token will do
        mask = torch.zeros(len(alive), width, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            inputs[row, width - len(sequence) :] = torch.tensor(sequence)
            mask[row, width - len(sequence) :] = 1
        inputs, mask = inputs.to(self.model.device), mask.to(self.model.device)
        cache = self._cache()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        start = time.perf_counter()
        while True:
            logits = (
                self.model(
                    input_ids=inputs,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                .logits[:, -1]
                .float()
            )
            chosen = sampler(logits, [request.generator for request in alive])
            steps = (logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)).tolist()
            keep: list[int] = []
            ended: list[tuple[_Request, Reason]] = []
            for slot, (request, token, step) in enumerate(zip(alive, chosen.tolist(), steps, strict=True)):
                if not math.isfinite(step):
                    ended.append((request, "not_finite"))
                    continue
                request.tokens.append(token)
                request.logprob += step
                if token in self.stop_tokens:
                    ended.append((request, "stop"))
                elif len(request.tokens) == request.limit:
                    ended.append((request, "length"))
                elif self.switch is not None and len(request.prompt) + len(request.tokens) == self.switch + 1:
                    turning.append(request)
                else:
                    keep.append(slot)
            now = time.perf_counter()
            for request in alive:
                request.seconds += (now - start) / len(alive)
            for request, reason in ended:
                yield request.index, Completion(tuple(request.tokens), reason, request.logprob, request.seconds)
            start = time.perf_counter() if ended else now
            if not keep:
                break
            if len(keep) < len(alive):
                index = torch.tensor(keep, device=chosen.device)
                alive, chosen, mask = [alive[slot] for slot in keep], chosen[index], mask[index]
                cache.batch_select_indices(index)
            inputs = chosen.unsqueeze(-1)
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=-1)
            positions = mask.sum(-1, keepdim=True) - 1
        del cache, logits
        if turning:
            yield from self._decode(turning, sampler)

    @torch.inference_mode()
    def loglikelihoods(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        batch_size: int,
        skip: Collection[int] = (),
    ) -> Iterator[dict[int, Likelihood]]:
        """For pairs of token ids, neither empty, yield those of each batch by the pair's index. Longest first, so that little is
        padded (on the right: causal attention never sees it). Log-softmax is in float32 whatever the logits' dtype.

        Pairs of one context share a row (`engines.packing`) where the model's attention allows it: the context is computed once.
        """
        rows = packing.rows(contexts, continuations, batch_size if packing.allowed(self.model) else 1)
        order = sorted(rows, key=lambda row: -len(row.tokens))
        parts, most = self._alike(order, [len(row.tokens) for row in order]), _LOGITS_AT_ONCE // self.vocab_size
        for whole in (batch for alike in parts for batch in packing.batches(alike, batch_size, most)):
            width, alone = len(whole[0].tokens), all(len(row.pairs) == 1 for row in whole)
            batch = [row for row in whole if not skip or any(pair not in skip for pair in row.pairs)]
            if not batch:
                continue
            inputs = packing.padded([row.tokens for row in batch], width)
            asked = sorted({position for row in batch for positions in row.before for position in positions})
            arguments: dict[str, Any] = {}
            if not alone:
                arguments = {
                    "position_ids": packing.padded([row.positions for row in batch], width).to(self.model.device),
                    "attention_mask": packing.mask(batch, width).to(self.model.device),
                }
            told = {pair: 0.0 for row in batch for pair in row.pairs if pair not in skip}
            greedy = dict.fromkeys(told, True)
            most = max(1, _LOGITS_AT_ONCE // (len(batch) * self.vocab_size))  # only a continuation of hundreds of tokens has more
            for part in (asked[first : first + most] for first in range(0, len(asked), most)):
                logits = self.model(
                    input_ids=inputs.to(self.model.device),
                    use_cache=False,
                    logits_to_keep=torch.tensor(part, device=self.model.device),
                    **arguments,
                ).logits
                column = {position: index for index, position in enumerate(part)}
                for index, row in enumerate(batch):
                    for pair, positions in zip(row.pairs, row.before, strict=True):
                        here = [step for step, position in enumerate(positions) if position in column]
                        if pair in skip or not here:
                            continue
                        after = torch.tensor([continuations[pair][step] for step in here], device=logits.device)
                        own = logits[index, [column[positions[step]] for step in here]].float()
                        told[pair] += own.log_softmax(-1).gather(-1, after[:, None]).double().sum().item()
                        greedy[pair] &= bool((own.argmax(-1) == after).all())
            yield {pair: Likelihood(logprob, greedy[pair]) for pair, logprob in told.items()}

    @torch.inference_mode()
    def score(
        self, windows: torch.Tensor, batch_size: int, skip: Collection[int] = ()
    ) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
        """For token windows [n, length], yield (their indices, float64 -log p(token | its prefix) [rows, length-1] in nats).

        Log-softmax is in float32 whatever the logits' dtype. A window whose logits are too many to be held at once is read in
        segments, over a cache of what came before.
        """
        rows = max(1, min(batch_size, _LOGITS_AT_ONCE // (windows.shape[1] * self.vocab_size)))
        for start in range(0, len(windows), rows):
            batch = [index for index in range(start, min(start + rows, len(windows))) if index not in skip]
            if not batch:
                continue
            inputs = windows[batch].to(self.model.device)
            length, step = inputs.shape[1], max(1, _LOGITS_AT_ONCE // (len(batch) * self.vocab_size))
            if self.switch is not None and length > self.switch:
                step = length  # what a segment left in the cache would be turned by other factors than the next
            cache = self._cache() if length > step else None
            nll = []
            for first in range(0, length - 1, step):
                segment, after = inputs[:, first : first + step], inputs[:, first + 1 : first + 1 + step]
                logits = self.model(input_ids=segment, past_key_values=cache, use_cache=cache is not None).logits
                losses = [
                    cross_entropy(row[: len(ids)].float(), ids.to(row.device), reduction="none").double()
                    for row, ids in zip(logits, after, strict=True)
                ]
                del logits  # before the next segment's are made
                nll.append(torch.stack(losses))
            yield batch, torch.cat(nll, dim=1).cpu()

    @torch.inference_mode()
    def time(self, prompts: torch.Tensor, new_tokens: int) -> list[Timing]:
        """Time one prefill of prompts [batch, tokens], and `new_tokens` greedy steps of one token per sequence after it."""
        inputs = prompts.to(self.model.device)
        cache = self._cache()
        with _timed(self.device, "prefill") as prefill:
            logits = self._forward(inputs, cache)
        with _timed(self.device, "decode") as decode:
            self._steps(logits, cache, new_tokens)
        return [prefill.timing, decode.timing]

    @torch.inference_mode()
    def parts(self, prompts: torch.Tensor, new_tokens: int) -> list[Part]:
        """Where the time of the phases of `time` goes."""
        inputs = prompts.to(self.model.device)
        cache, found = self._cache(), list[torch.Tensor]()
        prefill = profile.parts(self.device, "prefill", lambda: found.append(self._forward(inputs, cache)))
        return prefill + profile.parts(self.device, "decode", lambda: self._steps(found[0], cache, new_tokens))

    def memory(self, cache_bytes: int) -> Memory:
        """Parameters and buffers; a cache may take all memory that is free now."""
        return Memory(self._weight_bytes(), self.device.free_bytes() // cache_bytes)

    def _weight_bytes(self) -> int:
        held = {tensor.data_ptr(): tensor.nbytes for tensor in (*self.model.parameters(), *self.model.buffers())}
        return sum(held.values())

    def _cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def _forward(self, inputs: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits

    def _steps(self, logits: torch.Tensor, cache: DynamicCache, count: int) -> None:
        for _ in range(count):
            logits = self._forward(logits[:, -1].argmax(dim=-1, keepdim=True), cache)


class _timed:
    """Wall clock around a block of device work, synchronized at both ends, and the peak memory within."""

    timing: Timing

    def __init__(self, device: Device, phase: str) -> None:
        self.device, self.phase = device, phase

    def __enter__(self) -> "_timed":
        self.device.reset_peak()
        self.device.synchronize()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.device.synchronize()
        seconds = time.perf_counter() - self.start
        self.timing = Timing(self.phase, seconds, self.device.peak_bytes())  # type: ignore[arg-type]


def _stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """End-of-sequence ids of the generation config (some models have several) and the tokenizer."""
    configured = model.generation_config.eos_token_id
    found = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*found, tokenizer.eos_token_id] if token is not None)


def load(folder: Path, device: Device) -> TransformersEngine:
    """Load the checkpoint in `folder` in the platform's compute dtype; the files alone decide what is loaded, never the hub.

    On an accelerator, blocks fill the first device and overflow to the next, the host and the disk (accelerate, "sequential").
    Raises ArtifactError when transformers cannot load it.
    """
    register(auto)  # what `from_pretrained` finds in fake-quantized checkpoints; named here, so that its code is this engine's
    with reading(folder, "a model that transformers loads", "correct its config.json or files"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=device.compute_dtype,
            device_map=None if device.torch_device.type == "cpu" else "sequential",
            local_files_only=True,
        )
    return TransformersEngine(model.eval(), tokenizer, device, folder)
