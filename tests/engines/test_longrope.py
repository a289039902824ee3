"""Rotary factors by length: `longrope` turns all tokens of a sequence by others from some length on, YaRN stretches positions.
A completion is that of the model alone.
"""

import torch
from ptqflow.engines.protocol import Sampling
from ptqflow.engines.vllm_engine import _cache_bytes
from ptqflow.engines.work import cache_bytes
from test_shared_contexts import CONFIGS, NUMBERS, SHAPE, engine_of
from transformers import Qwen3Config

PROMPTS = [NUMBERS[:6], NUMBERS[10:33], NUMBERS[40:64], NUMBERS[70:95], NUMBERS[100:140]]  # 24 positions have the first factors


def test_completions_go_on_across_the_length_at_which_factors_change():
    engine = engine_of(CONFIGS["phi3, longrope"][0])
    found = {}
    for batch_size in (1, 5):
        found[batch_size] = dict(engine.generate(PROMPTS, [0] * 5, Sampling(max_new_tokens=30), batch_size))
        for index, prompt in enumerate(PROMPTS):
            sequence, logprob = list(prompt), 0.0
            for _ in range(30):  # without a cache
                logprobs = engine.model(torch.tensor([sequence])).logits[0, -1].log_softmax(-1)
                sequence.append(int(logprobs.argmax()))
                logprob += logprobs.max().item()
            completion = found[batch_size][index]
            assert [*prompt, *completion.tokens] == sequence
            assert abs(completion.logprob - logprob) < 1e-3
            assert completion.seconds > 0


def test_draws_go_on_with_the_noise_of_their_seed():
    engine = engine_of(CONFIGS["phi3, longrope"][0])
    together, alone = (dict(engine.generate(PROMPTS, range(5), Sampling(30, temperature=1.0), size)) for size in (5, 1))
    assert together == alone


def test_a_model_whose_positions_yarn_stretches_uses_them_all():
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
    config = Qwen3Config(**SHAPE | {"max_position_embeddings": 20}, rope_parameters=yarn).to_dict()
    assert _cache_bytes(config) == 256 * 64 * cache_bytes(config, 4)  # vLLM's, on a CPU
    engine = engine_of(Qwen3Config(**SHAPE | {"max_position_embeddings": 20}, rope_parameters=yarn))
    ((_, completion),) = engine.generate([NUMBERS[:10]], [0], Sampling(max_new_tokens=100), 1)
    assert len(completion.tokens) == engine.max_length - 10 == 4 * 16 - 10
