"""Load every checkpoint in vLLM on this CPU and compare its logits: `python vllm_proof.py --work DIR --output result.json`.

Runs in vLLM's own environment. Fake forms go through the plugin, in float32 and in bfloat16; real forms through vLLM's own
readers and kernels, in bfloat16. Paged attention, batching and chunked prefill are on. What needs a kernel
that this CPU lacks or gets wrong is not run.
"""

import json
import os
from pathlib import Path
from typing import Any

# In one process, one thread and without a compiler: three seconds to load instead of thirty.
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_INT4_W4A8": "0"}

import torch
from compare import Attempt, NotRun, arguments, checkpoints
from ptqflow.engines.vllm_kernels import refusal
from vllm import LLM, SamplingParams

DTYPES = {
    "float": ("float32", "bfloat16"),
    "fake": ("float32", "bfloat16"),
    "compressed-tensors": ("bfloat16",),
    "autoawq": ("bfloat16",),
    "gptq": ("bfloat16",),
}


def load(folder: Path, dtype: str, **options: Any) -> LLM:
    """An engine with all of the vocabulary's log-probabilities; prompts of `compare` are prefilled in several chunks."""
    settings = {"max_model_len": 256, "max_num_batched_tokens": 256, "max_num_seqs": 4, "enable_prefix_caching": False}
    return LLM(
        str(folder), dtype=dtype, enforce_eager=True, skip_tokenizer_init=True, max_logprobs=-1, seed=0, **settings | options
    )


def log_probabilities(llm: LLM, tokens: torch.Tensor) -> torch.Tensor:
    """[n, tokens - 1, vocabulary] of prompts [n, tokens]: what follows each token but the last."""
    sampling = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=-1, flat_logprobs=True)
    prompts = [{"prompt_token_ids": row} for row in tokens.tolist()]
    result = []
    for output in llm.generate(prompts, sampling, use_tqdm=False):
        flat, width = output.prompt_logprobs, tokens.shape[1] - 1
        ids, values = torch.tensor(flat.token_ids).view(width, -1), torch.tensor(flat.logprobs).view(width, -1)
        # the token itself comes first, and again in its place
        result.append(torch.empty(width, int(ids.max()) + 1).scatter_(1, ids, values))
    return torch.stack(result)


def prove(work: Path, recipe: str, form: str, folder: Path, dtype: str) -> dict[str, Any]:
    """One row."""
    with Attempt(work, recipe, form, folder, "vllm", dtype) as attempt:
        if reason := refusal(folder):
            raise NotRun(reason)
        llm = load(folder, dtype)
        attempt.loaded()
        attempt.compare(lambda tokens: log_probabilities(llm, tokens))
    return attempt.row


def main() -> None:
    """Prove all checkpoints in --work of the forms that vLLM reads."""
    args = arguments(__doc__)
    rows = [
        prove(args.work, recipe, form, folder, dtype)
        for recipe, form, folder in checkpoints(args.work, tuple(DTYPES))
        for dtype in DTYPES[form]
    ]
    args.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
