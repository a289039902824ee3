"""The 8-bit cache of `transformers-int`: attention reads the numbers of the fake form, decoding with it equals a whole pass."""

import json
import shutil

import pytest
import torch
from ptqflow.devices.device import select
from ptqflow.engines import protocol
from ptqflow.engines.protocol import Sampling
from ptqflow.errors import ConfigError
from ptqflow.modeling.integer_cache import CacheScale, CacheScales, IntegerCacheReader
from ptqflow.modeling.weights import Weights, save_safetensors
from ptqflow.presets import resolve
from tiny_models import VOCABULARY, collect, export, quantize, tiny_model

RECIPE = {
    "scheme": {
        "weights": {"num_bits": 8, "symmetric": True, "strategy": "channel"},
        "input_activations": {"num_bits": 8},
        "kv_cache": {"num_bits": 8, "symmetric": True, "dynamic": False},
    }
}
WINDOWS = torch.randint(3, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(5))


class Tokenizer:
    eos_token_id = 2


@pytest.fixture(autouse=True)
def no_tokenizer(monkeypatch):
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: Tokenizer)


@pytest.fixture(scope="module")
def made(work):
    """The fake and the real form of a model whose cache is static."""
    source = tiny_model(work / "qwen3", "qwen3", layers=2)
    recipe = resolve(RECIPE)
    qparams = quantize(source, collect(source, work), recipe, work / "quantized")
    return {form: export(source, qparams, recipe, work / form, form) for form in ("fake", "modelslim")}


def load(folder, engine="transformers-int"):
    return protocol.load(engine, folder, select("cpu"))


def scores(engine):
    return torch.cat([nll for _, nll in engine.score(WINDOWS, 4)])


@torch.inference_mode()
def decoded(engine, prompt=12):
    """-log p of the tokens of WINDOWS after the first `prompt`, by steps of one over a cache; and the cache."""
    cache, nll = engine._cache(), []
    logits = engine._forward(WINDOWS[:, :prompt], cache)
    for step in range(prompt, WINDOWS.shape[1]):
        nll.append(-logits[:, -1].double().log_softmax(-1).gather(-1, WINDOWS[:, step : step + 1]))
        logits = engine._forward(WINDOWS[:, step : step + 1], cache)
    return torch.cat(nll, 1), cache


def test_a_real_cache_scores_as_its_fake_form_and_decodes_as_it_scores(made):
    fake, real = load(made["fake"], "transformers"), load(made["modelslim"])
    torch.testing.assert_close(scores(real), scores(fake), rtol=0, atol=2e-3)
    found, cache = decoded(real)
    torch.testing.assert_close(found, scores(real)[:, 11:], rtol=0, atol=2e-3)
    assert {layer.keys.dtype for layer in cache.layers} == {layer.values.dtype for layer in cache.layers} == {torch.int8}
    assert real.settings()["cache"] == "int8"


def test_the_rooms_of_a_cache_of_bytes(made):
    """float32 numbers take four bytes: four times the tokens."""
    room = load(made["modelslim"]).memory(400).cache_tokens / load(made["fake"], "transformers").memory(400).cache_tokens
    assert 3 < room < 5


def test_integers_and_numbers_of_the_grid_are_read_alike():
    heads = torch.tensor([0.1, 0.02]).view(2, 1, 1)
    scales = CacheScales(CacheScale(heads, torch.tensor([3.0, -2.0]).view(2, 1, 1)), CacheScale(heads, torch.zeros(2, 1, 1)))
    reader = IntegerCacheReader(*scales, torch.float32)
    x = torch.randn(2, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    by_number = reader(x, x)
    by_integer = reader(scales.keys.integers(x), scales.values.integers(x))
    assert all(torch.equal(a, b) for a, b in zip(by_number, by_integer, strict=True))
    expected = ((x / heads).round().clamp(-128, 127)) * heads
    assert torch.equal(by_number[1], expected)
    assert (by_number[0] - x).abs().max() <= 0.051 + (x.abs() - 2.5).clamp(min=0).max()


def as_compressed_tensors(folder, target, scheme):
    """A float model whose cache alone is quantized, one scale per layer, as llm-compressor writes it."""
    shutil.copytree(folder, target)
    weights = Weights(target)
    tensors = weights.load(weights.file_of)
    for layer in range(2):
        tensors |= {f"model.layers.{layer}.self_attn.{part}_scale": torch.tensor([0.05]) for part in "kv"}
    save_safetensors(target / "model.safetensors", tensors, {})
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors", "config_groups": {}, "kv_cache_scheme": scheme}
    (target / "config.json").write_text(json.dumps(config))
    return target


SCHEME = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor", "dynamic": False}


def test_a_cache_of_compressed_tensors_is_read(made, work, tmp_path):
    real = load(as_compressed_tensors(work / "qwen3", tmp_path / "ct", SCHEME))
    found, cache = decoded(real)
    torch.testing.assert_close(found, scores(real)[:, 11:], rtol=0, atol=2e-3)
    assert cache.layers[1].values.dtype == torch.int8
    change = (scores(real) - scores(load(work / "qwen3"))).abs().mean()
    assert 1e-3 < change < 0.5


@pytest.mark.parametrize("kind", ["mistral", "gemma2"])
def test_a_cache_in_windows_decodes_as_it_scores_and_padding_is_not_read(kind, tmp_path):
    """Every block of one has a window of 6 tokens, every other of the other."""
    plain = tiny_model(tmp_path / "plain", kind, layers=2, sliding_window=6)
    real = load(as_compressed_tensors(plain, tmp_path / "ct", SCHEME))
    found, cache = decoded(real)
    torch.testing.assert_close(found, scores(real)[:, 11:], rtol=0, atol=2e-3)
    assert [layer.keys.shape[2] for layer in cache.layers] == ([5, 5] if kind == "mistral" else [5, 20])
    assert {layer.keys.dtype for layer in cache.layers} == {torch.int8}
    prompts, greedy = [WINDOWS[0, :15].tolist(), WINDOWS[1, :4].tolist()], Sampling(temperature=0.0, max_new_tokens=8)
    together = dict(real.generate(prompts, [0, 1], greedy, 2))
    for row, prompt in enumerate(prompts):
        ((_, alone),) = real.generate([prompt], [row], greedy, 1)
        assert together[row].tokens == alone.tokens


@pytest.mark.parametrize("change", [{"type": "float"}, {"dynamic": True}, {"symmetric": False}])
def test_other_caches_are_refused(made, work, tmp_path, change):
    with pytest.raises(ConfigError, match="static symmetric caches of 8-bit integers"):
        load(as_compressed_tensors(work / "qwen3", tmp_path / "ct", SCHEME | change))


def test_a_layer_without_scales_is_refused(made, tmp_path):
    folder = shutil.copytree(made["modelslim"], tmp_path / "copy")
    file = folder / "quant_model_weights.safetensors"
    weights = Weights(folder, "quant_model_weights")
    kept = {name: tensor for name, tensor in weights.load(weights.file_of).items() if "layers.1.self_attn.k_proj.kv_" not in name}
    save_safetensors(file, kept, {})
    with pytest.raises(ConfigError, match=r"layers\.1\.self_attn has no scale"):
        load(folder)
