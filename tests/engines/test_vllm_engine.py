"""Laws of the engine vllm, for the pytest of vLLM's environment (`make check-engines` runs it on the checkpoints it made)."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORK = Path(os.environ.get("PTQFLOW_ENGINE_WORK", "nowhere"))
BASELINE = WORK / "baseline.float"
if not BASELINE.is_dir():
    pytest.skip("`make check-engines ENGINES=vllm` runs these with the float model among its recipes", allow_module_level=True)
pytest.importorskip("vllm")
# In one process and without a compiler: seconds to load instead of half a minute.
os.environ |= {"TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}

import torch  # noqa: E402
from compare import reference  # noqa: E402
from ptqflow.devices.device import select  # noqa: E402
from ptqflow.engines import vllm_engine, vllm_kernels  # noqa: E402
from ptqflow.engines.protocol import Sampling  # noqa: E402
from ptqflow.errors import ConfigError  # noqa: E402


@pytest.fixture(scope="module")
def engine():
    return vllm_engine.load(BASELINE, select("cpu"))


@pytest.fixture(scope="module")
def expected():
    """Prompts [n, tokens], and log-probabilities [n, tokens - 1, vocabulary] by transformers."""
    tokens, logits = reference(WORK, "baseline", "float32")
    return tokens, logits[:, :-1].log_softmax(-1)


def test_windows_score_as_in_transformers(engine, expected):
    tokens, logprobs = expected
    parts = {index: nll for (index,), nll in engine.score(tokens, 4)}
    found = torch.cat([parts[index] for index in range(len(tokens))])
    torch.testing.assert_close(found, -logprobs.gather(-1, tokens[:, 1:, None]).squeeze(-1).double(), atol=1e-4, rtol=1e-4)
    assert [index for (index,), _ in engine.score(tokens, 4, skip=range(1, len(tokens)))] == [0]


def test_loglikelihoods_are_sums_over_the_continuation_alone(engine, expected):
    tokens, logprobs = expected
    cuts = [1, 40, 90, 95]
    pairs = [(row, cut) for row in range(len(tokens)) for cut in cuts]
    contexts, continuations = (
        [tokens[row, :cut].tolist() for row, cut in pairs],
        [tokens[row, cut:].tolist() for row, cut in pairs],
    )
    found = {
        index: likelihood for part in engine.loglikelihoods(contexts, continuations, 4) for index, likelihood in part.items()
    }
    assert len(found) == len(pairs)
    for index, (row, cut) in enumerate(pairs):
        likelihood = found[index]
        asked = logprobs[row, cut - 1 :]
        assert likelihood.logprob == pytest.approx(asked.gather(-1, tokens[row, cut:, None]).sum().item(), abs=1e-3)
        assert likelihood.greedy == bool((asked.argmax(-1) == tokens[row, cut:]).all())


def test_greedy_completions_are_argmax_and_end_at_limits(engine, expected):
    tokens, logprobs = expected
    prompts = tokens[:4, :60].tolist()
    found = dict(engine.generate(prompts, [0] * 4, Sampling(8), 4))
    for row, completion in found.items():
        assert completion.tokens[0] == logprobs[row, 59].argmax().item()
        assert completion.finish_reason == ("stop" if completion.tokens[-1] in engine.stop_tokens else "length")
        assert len(completion.tokens) <= 8
        assert completion.seconds > 0
    assert [row for row, _ in engine.generate(prompts, [0] * 4, Sampling(8), 4, skip={0, 1, 3})] == [2]


def test_no_more_are_in_hand_at_once_than_asked_and_all_are_answered(engine, expected, monkeypatch):
    """Noise of other batches: the same tokens to the same prompts, served two by two, and the skipped not at all."""
    prompts, core, seen = expected[0][:6, :60].tolist(), engine.llm.llm_engine, []
    step = core.step
    monkeypatch.setattr(core, "step", lambda: (seen.append(core.get_num_unfinished_requests()), step())[1])
    alone = dict(engine.generate(prompts, [0] * 6, Sampling(8), None, skip={3}))
    assert max(seen) == 5
    seen.clear()
    found = dict(engine.generate(prompts, [0] * 6, Sampling(8), 2, skip={3}))
    assert max(seen) == 2
    assert sorted(found) == [0, 1, 2, 4, 5]
    assert [found[row].tokens for row in sorted(found)] == [alone[row].tokens for row in sorted(alone)]
    contexts, after = [prompt[:40] for prompt in prompts], [prompt[40:] for prompt in prompts]
    seen.clear()
    told = {pair: one for part in engine.loglikelihoods(contexts, after, 1) for pair, one in part.items()}
    assert (max(seen), sorted(told)) == (1, list(range(6)))


def test_a_sampled_completion_depends_on_its_prompt_and_seed_alone(engine, expected):
    prompts, sampling = expected[0][:4, :60].tolist(), Sampling(16, temperature=1.0, top_p=0.95)
    together = dict(engine.generate(prompts, [1, 2, 3, 4], sampling, 4))
    turned = dict(engine.generate(prompts[::-1], [4, 3, 2, 1], sampling, 4))
    assert [together[row] for row in range(4)] == [turned[3 - row] for row in range(4)]
    assert dict(engine.generate(prompts, [5, 6, 7, 8], sampling, 4)) != together


def test_a_completions_logprob_is_that_of_its_tokens_before_temperature(engine, expected):
    prompts = expected[0][:4, :60].tolist()
    found = dict(engine.generate(prompts, [1, 2, 3, 4], Sampling(16, temperature=1.5, top_p=0.9, top_k=20), 4))
    said = [list(found[row].tokens) for row in range(4)]
    asked = {row: likelihood for part in engine.loglikelihoods(prompts, said, 4) for row, likelihood in part.items()}
    for row, completion in found.items():
        assert completion.logprob == pytest.approx(asked[row].logprob, abs=1e-3)


def test_a_prompt_that_fills_all_positions_is_refused(engine):
    with pytest.raises(ConfigError, match="leaves no room"):
        list(engine.generate([[5] * engine.max_length], [0], Sampling(1), 1))


def test_a_form_that_this_machine_gets_wrong_is_refused(monkeypatch):
    monkeypatch.setattr(vllm_kernels, "refusal", lambda folder: "wrong kernel of the engine")
    with pytest.raises(ConfigError, match="wrong kernel of the engine; evaluate this form on another machine"):
        vllm_engine.load(BASELINE, select("cpu"))


def test_what_changes_numbers_is_recorded(engine):
    assert engine.settings() | {"version": "", "attention_backend": ""} == {
        **{"engine": "vllm", "version": "", "platform": "cpu", "dtype": "float32", "quantization": None},
        **{"attention_backend": "", "tensor_parallel_size": 1, "enforce_eager": True},
        "environment": {"VLLM_CPU_INT4_W4A8": "0"},
    }


def test_both_phases_are_timed(engine):
    start = time.perf_counter()
    prefill, decode = engine.time(torch.randint(100, (2, 32)), 4)
    assert 0.5 * (time.perf_counter() - start) < prefill.seconds + decode.seconds < time.perf_counter() - start
    assert decode.seconds > 0
    assert (prefill.phase, decode.phase) == ("prefill", "decode")
    assert prefill.seconds > 0


RANKS = """
import json, sys
from pathlib import Path
import torch
from ptqflow.devices.device import select
from ptqflow.engines import protocol
engine = protocol.load("vllm", Path(sys.argv[1]), select("cpu"), 2)
contexts, continuations = json.loads(sys.argv[2])
said = {i: found.logprob for part in engine.loglikelihoods(contexts, continuations, 4) for i, found in part.items()}
peak = engine.time(torch.tensor(contexts), 2)[0].peak_bytes
print(json.dumps([engine.settings()["tensor_parallel_size"], [said[i] for i in range(len(contexts))], peak]))
"""


def test_two_ranks_say_what_one_says(engine, expected):
    """In a process of its own: ranks are forked, and this one holds an engine."""
    tokens = expected[0][:4]
    asked = tokens[:, :60].tolist(), tokens[:, 60:].tolist()
    command = [sys.executable, "-c", RANKS, str(BASELINE), json.dumps(asked)]
    ranks, said, peak = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert ranks == 2
    assert peak > 0
    alone = {i: found.logprob for part in engine.loglikelihoods(*asked, 4) for i, found in part.items()}
    assert said == pytest.approx([alone[i] for i in range(4)], abs=1e-3)


# The last ones: of two engines in a process the first is lost.
@pytest.mark.parametrize(
    ("recipe", "form"),
    [
        ("gptq-w4-symmetric", "compressed-tensors"),
        ("gptq-w4-symmetric", "gptq"),
        ("smoothquant-w8a8-symmetric", "compressed-tensors"),
    ],
)
def test_a_form_without_float32_kernels_runs_in_bfloat16_with_inputs_as_the_recipe_says(recipe, form):
    folder = WORK / f"{recipe}.{form}"
    if not folder.is_dir():
        pytest.skip(f"{recipe} is not among the recipes that are checked")
    try:
        found = vllm_engine.load(folder, select("cpu"))
    except ConfigError as error:  # a CPU without its kernels
        pytest.skip(str(error))
    float32 = recipe == "smoothquant-w8a8-symmetric" and not vllm_kernels.has_amx()
    assert found.settings()["dtype"] == ("float32" if float32 else "bfloat16")
    tokens, logits = reference(WORK, recipe, "float32")
    expected = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    parts = {index: nll for (index,), nll in found.score(tokens, 4)}
    differences = (torch.cat([parts[index] for index in range(len(tokens))]) - expected).abs()
    assert differences.mean() < 0.03  # 0.1 where inputs of 4-bit weights are rounded to 8 bits
