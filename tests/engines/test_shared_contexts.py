"""Continuations that share a context's row are told what they would be told in rows of their own."""

from pathlib import Path

import pytest
import torch
from ptqflow.devices.device import Device
from ptqflow.engines import packing
from ptqflow.engines.transformers_engine import TransformersEngine
from ptqflow.modeling.fake_quant import quantize_block, register_attention
from ptqflow.presets import resolve
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

SHAPE = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.3, "pad_token_id": 0}
CPU = Device("cpu", torch.device("cpu"), torch.float32)
WINDOW = {"sliding_window": 8}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 5.0, 8.0]}
LONGROPE |= {"original_max_position_embeddings": 24}
CONFIGS: dict[str, tuple[PreTrainedConfig, bool]] = {
    "llama": (LlamaConfig(**SHAPE), True),
    "qwen2": (Qwen2Config(**SHAPE), True),
    "qwen3": (Qwen3Config(**SHAPE), True),
    "phi3": (Phi3Config(**SHAPE), True),
    "phi3, longrope": (Phi3Config(**SHAPE, original_max_position_embeddings=24, rope_parameters=LONGROPE), False),
    "mistral": (MistralConfig(**SHAPE, sliding_window=None), True),
    "mistral, window": (MistralConfig(**SHAPE, **WINDOW), False),
    "qwen2, windows in one layer": (Qwen2Config(**SHAPE, **WINDOW, use_sliding_window=True, max_window_layers=1), False),
    "gemma2": (Gemma2Config(**SHAPE, **WINDOW), False),
    "gpt2": (GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=128), False),
}
GENERATOR = torch.Generator().manual_seed(0)
NUMBERS = torch.randint(1, 97, (400,), generator=GENERATOR).tolist()
CONTEXTS = [NUMBERS[:20]] * 4 + [NUMBERS[20:51]] * 2 + [NUMBERS[60:61]] * 3 + [NUMBERS[70:110]]
CONTINUATIONS = [NUMBERS[110 + 9 * n : 110 + 9 * n + (7, 1, 3, 9, 2)[n % 5]] for n in range(len(CONTEXTS))]
# Three contexts that differ at their ends, and go on alike; a context whose continuations begin alike.
BEGINNING, WORDS = NUMBERS[200:230], NUMBERS[240:260]
CONTEXTS += [[*BEGINNING, 5], [*BEGINNING, 9, 3], BEGINNING[:28], NUMBERS[300:310], NUMBERS[300:310], NUMBERS[300:310]]
CONTINUATIONS += [NUMBERS[230:236]] * 3 + [[*WORDS, 7, 8, 9], WORDS, [*WORDS[:12], 11]]


def engine_of(config: PreTrainedConfig, quantized: bool = False) -> TransformersEngine:
    torch.manual_seed(0)
    register_attention()
    model = AutoModelForCausalLM.from_config(config, attn_implementation="ptqflow" if quantized else None).float().eval()
    if quantized:
        for layer, block in enumerate(model.base_model.layers):
            quantize_block(block, resolve({"preset": "rtn-w8a8kv8"}), layer)

    class NoTokenizer:
        eos_token_id = None

    return TransformersEngine(model, NoTokenizer(), CPU, Path())


def found(engine: TransformersEngine, batch_size: int, skip: frozenset[int] = frozenset()) -> dict[int, float]:
    parts = engine.loglikelihoods(CONTEXTS, CONTINUATIONS, batch_size, skip)
    return {pair: likelihood.logprob for part in parts for pair, likelihood in part.items()}


@torch.inference_mode()
def direct(engine: TransformersEngine, pair: int) -> float:
    """A row of its own, by transformers alone."""
    context, after = CONTEXTS[pair], CONTINUATIONS[pair]
    logprobs = engine.model(torch.tensor([context + after])).logits[0].log_softmax(-1)
    return sum(logprobs[len(context) - 1 + step, token].item() for step, token in enumerate(after))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_row_that_is_shared_tells_what_rows_alone_tell(name: str, batch_size: int) -> None:
    config, shares = CONFIGS[name]
    engine = engine_of(config)
    assert packing.allowed(engine.model) == shares
    expected = [direct(engine, pair) for pair in range(len(CONTEXTS))]
    likelihoods = found(engine, batch_size)
    assert [likelihoods[pair] for pair in range(len(CONTEXTS))] == pytest.approx(expected, rel=2e-5)


def test_quantized_activations_and_caches_see_the_same() -> None:
    engine = engine_of(CONFIGS["llama"][0], quantized=True)
    assert packing.allowed(engine.model)
    expected = [direct(engine, pair) for pair in range(len(CONTEXTS))]
    likelihoods = found(engine, 64)
    # a value at a rounding boundary may fall to the other side
    assert [likelihoods[pair] for pair in range(len(CONTEXTS))] == pytest.approx(expected, abs=0.02)


def test_what_is_known_is_not_told_and_changes_nothing() -> None:
    engine = engine_of(CONFIGS["qwen2"][0])
    whole, known = found(engine, 6), frozenset({0, 2, 4, 5, 9})
    rest = found(engine, 6, known)
    assert rest.keys() == whole.keys() - known
    assert rest == pytest.approx({pair: whole[pair] for pair in rest}, rel=1e-6)


def test_what_begins_alike_is_computed_once() -> None:
    rows = packing.rows(CONTEXTS, CONTINUATIONS, 64)[4:]
    assert [(row.pairs, row.shared) for row in rows] == [([10, 11, 12], 28), ([13, 14, 15], 10 + 12)]
    assert len(rows[0].tokens) == 28 + (3 + 5) + (4 + 5) + 5
    assert [row.pairs for row in packing.rows(CONTEXTS, CONTINUATIONS, 2)[-4:]] == [[10, 11], [12], [13, 14], [15]]


def test_little_that_is_alike_changes_no_row() -> None:
    alike = NUMBERS[:7]
    rows = packing.rows([[*alike, 1], [*alike, 2]], [[3, 4], [3, 4]], 64)
    assert [row.pairs for row in rows] == [[0], [1]]
    (row,) = packing.rows([[5]] * 2, [[*alike, 1, 2], [*alike, 3, 4]], 64)
    assert row.shared == 1


def test_a_context_is_computed_once() -> None:
    rows = packing.rows(CONTEXTS[:10], CONTINUATIONS[:10], 64)
    assert [row.pairs for row in rows] == [[0, 1, 2, 3], [4, 5], [6, 7, 8], [9]]
    assert len(rows[0].tokens) == 20 + sum(len(after) - 1 for after in CONTINUATIONS[:4])
    assert [len(batch) for batch in packing.batches(rows, 4, 1 << 20)] == [1, 1, 2]
    assert all(
        sum(len(row.pairs) for row in batch) <= 2
        for batch in packing.batches(packing.rows(CONTEXTS[:10], CONTINUATIONS[:10], 2), 2, 1 << 20)
    )
    assert len(list(packing.batches(rows, 64, 1))) == len(rows)
