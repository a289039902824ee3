"""However long a text and however large a vocabulary, the engine holds a bounded number of logits at once."""

import json
import subprocess
import sys

import pytest
import torch
from checkout import REPOSITORY
from ptqflow.engines import transformers_engine
from test_shared_contexts import CONFIGS, CONTEXTS, engine_of, found

MODELS = ("qwen2", "gemma2", "mistral, window", "phi3, longrope")


@pytest.mark.parametrize("name", MODELS)
def test_segments_of_a_window_tell_what_the_whole_tells(name, monkeypatch):
    engine = engine_of(CONFIGS[name][0])
    windows = torch.randint(1, 97, (3, 41), generator=torch.Generator().manual_seed(1))
    ((_, whole),) = engine.score(windows, 4)
    for at_once in (97 * 10, 97 * 40, 97 * 41, 1):
        monkeypatch.setattr(transformers_engine, "_LOGITS_AT_ONCE", at_once)
        parts = {index: nll for indices, losses in engine.score(windows, 4) for index, nll in zip(indices, losses, strict=True)}
        assert torch.stack([parts[index] for index in range(3)]).numpy() == pytest.approx(whole.numpy(), rel=2e-5, abs=1e-5)


def test_long_continuations_are_told_in_parts(monkeypatch):
    engine = engine_of(CONFIGS["qwen2"][0])
    whole = found(engine, 64)
    monkeypatch.setattr(transformers_engine, "_LOGITS_AT_ONCE", 97 * 3)
    parts = found(engine, 64)
    assert [parts[pair] for pair in range(len(CONTEXTS))] == pytest.approx(
        [whole[pair] for pair in range(len(CONTEXTS))], rel=2e-5
    )


SCRIPT = """
import json, sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, Qwen2Config
from ptqflow.devices.device import Device
from ptqflow.engines.protocol import Sampling
from ptqflow.engines.transformers_engine import TransformersEngine
sys.path.insert(0, sys.argv[2])
from peer_memory import peak_bytes

class NoTokenizer:
    eos_token_id = None

torch.set_num_threads(1)
shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
config = Qwen2Config(vocab_size=151936, max_position_embeddings=65536, **shape)
model = AutoModelForCausalLM.from_config(config).float().eval()
engine = TransformersEngine(model, NoTokenizer(), Device("cpu", torch.device("cpu"), torch.float32), Path())
tokens = torch.arange(1, 1 + 32768) % 151936
for _ in engine.score(tokens[None, :8], 1):  # what is loaded once
    pass
before = peak_bytes()
if sys.argv[1] == "score":
    ((_, told),) = engine.score(tokens[None], 16)
    assert told.isfinite().all()
elif sys.argv[1] == "loglikelihoods":
    pairs = [tokens[n : n + 3000].tolist() for n in range(8)]
    parts = engine.loglikelihoods(pairs, [tokens[: 20 + n].tolist() for n in range(8)], 64)
    assert sum(map(len, parts)) == 8
else:
    prompts = [tokens[n : 32700 + n].tolist() for n in range(4)]  # as decoding finds them near the end of a long completion
    told = dict(engine.generate(prompts, [0] * 4, Sampling(3, 0.6, 0.95), 4))
    assert len(told) == 4
print(json.dumps(peak_bytes() - before))
"""
LOGITS, VOCABULARY = 4 * transformers_engine._LOGITS_AT_ONCE, 151936
# Bytes: the logits of a segment and their log-softmax; of 39 positions likewise; of 4 rows, their sorting and float64 noise.
PREDICTED = {"score": 2 * LOGITS, "loglikelihoods": 3 * 39 * VOCABULARY * 4, "generate": 4 * VOCABULARY * (6 * 4 + 2 * 8 + 8)}
WHOLE = {"score": 32768, "loglikelihoods": 8 * 3000, "generate": 4 * 32700}  # positions whose logits would be held otherwise

STATES = 10 * (4 * 32700) * 32 * 4  # beside the logits: caches and states [tokens, 32] of the model, ten at once at most


@pytest.mark.slow
@pytest.mark.parametrize("method", PREDICTED)
def test_peak_memory_is_what_is_predicted_at_a_vocabulary_of_150k(method):
    command = [sys.executable, "-c", SCRIPT, method, str(REPOSITORY / "benchmarks")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, whole = json.loads(done.stdout.splitlines()[-1]), WHOLE[method] * VOCABULARY * 4
    print(f"{method}: predicted {PREDICTED[method] / 1e6:.0f} MB, measured {grown / 1e6:.0f} MB, all logits {whole / 1e6:.0f} MB")
    assert grown <= PREDICTED[method] + STATES
    assert PREDICTED[method] + STATES < whole
