from functools import partial

import pytest
import torch
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.modeling import blocks as blocks_module
from ptqflow.modeling.blocks import Blocks, Buffer, batches, forward, sample_linears, walk_sites, watch_sites
from ptqflow.modeling.cache import quantize_cache
from ptqflow.modeling.fake_quant import FakeQuantLinear
from ptqflow.scheme import ActivationArgs, CacheArgs
from safetensors.torch import load_file, save_file
from tiny_models import VOCABULARY, tiny_model
from transformers import AutoModelForCausalLM

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize(("dtype", "shards"), [(torch.float32, False), (torch.bfloat16, True)])
def test_walked_blocks_equal_the_whole_models_hidden_states(kind, dtype, shards, tmp_path):
    folder = tiny_model(tmp_path / "m", kind, dtype, shards)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.randint(0, VOCABULARY, (3, 20))
    blocks = Blocks(folder, CPU, torch.float32)
    assert (len(blocks.weights.files()) > 1) == shards
    with torch.no_grad():
        expected = model(tokens, output_hidden_states=True).hidden_states
        hidden = blocks.embed(tokens)
        for layer in range(3):
            assert torch.equal(hidden, expected[layer])
            hidden = forward(blocks.build(layer, blocks.tensors(layer)), hidden, blocks.positions(20))
        torch.testing.assert_close(model.model.norm(hidden), expected[3])


def test_sites_see_what_their_linears_read(tmp_path):
    blocks = Blocks(tiny_model(tmp_path / "m", "qwen3", layers=1), CPU, torch.float32)
    block = blocks.build(0, blocks.tensors(0))
    seen = {}
    hidden = torch.randn(2, 5, 128)
    with watch_sites(block, lambda site, x: seen.update({site: x})):
        forward(block, hidden, blocks.positions(5))
    assert {site: x.shape[-1] for site, x in seen.items()} == {"qkv": 128, "o": 256, "gate_up": 128, "down": 256}
    assert torch.equal(seen["qkv"], block.input_layernorm(hidden))
    assert not any(module._forward_pre_hooks for module in block.modules())


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("held_bytes", [1 << 30, 2 << 20, 0])  # all; 128 channels (1.8 MB), as norms make; nothing
def test_walking_site_by_site_is_one_forward_pass_where_inputs_can_be_held_back(kind, held_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_module, "_HELD_BYTES", held_bytes)
    blocks = Blocks(tiny_model(tmp_path / "m", kind, layers=1), CPU, torch.float32)
    block, positions = blocks.build(0, blocks.tensors(0)), blocks.positions(700)
    hidden, seen, calls = torch.randn(5, 700, 128), {}, {}  # 3 batches
    for name, module in block.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    with watch_sites(block, lambda site, x: seen.setdefault(site, []).append(x)):
        expected = torch.cat([forward(block, hidden[part], positions) for part in batches(5, 700)])
    assert set(calls.values()) == {3}
    walked, found, buffer = hidden.clone(), {}, Buffer()
    for site, inputs in walk_sites(block, walked, positions, buffer=buffer):
        found[site.name] = [x.clone() for x in inputs]
    assert {calls[name] for name in ("self_attn.o_proj", "mlp.down_proj")} == {6}
    once = {"self_attn": held_bytes == 1 << 30 or (held_bytes and kind != "qwen3"), "mlp": held_bytes == 1 << 30}
    for half, held in once.items():
        makers = {calls[name] for name in calls if name.startswith(half) and not name.endswith(("o_proj", "down_proj"))}
        assert makers == ({6} if held else {9})
    assert torch.equal(walked, expected)
    assert found.keys() == seen.keys()
    assert all(torch.equal(torch.cat(found[site]), torch.cat(seen[site])) for site in seen)
    for _, inputs in walk_sites(block, partly := hidden.clone(), positions, finished=2, buffer=buffer):
        list(inputs)
    assert torch.equal(partly[:2], expected[:2])
    assert not torch.equal(partly[4:], expected[4:])


@pytest.mark.parametrize("held_bytes", [1 << 30, 0])
def test_a_walk_in_bfloat16_gives_inputs_as_linears_see_them(held_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_module, "_HELD_BYTES", held_bytes)
    blocks = Blocks(tiny_model(tmp_path / "m", "qwen2", layers=1), CPU, torch.float32)
    block, positions = blocks.build(0, blocks.tensors(0), torch.bfloat16), blocks.positions(5)
    hidden, seen, found = torch.randn(2, 5, 128), {}, {}
    precision = partial(torch.autocast, "cpu", torch.bfloat16)
    with watch_sites(block, lambda site, x: seen.update({site: x})), precision():
        expected = forward(block, hidden, positions)
    for site, inputs in walk_sites(block, hidden, positions, precision):
        found[site.name] = torch.cat([x.clone() for x in inputs])
    assert torch.equal(hidden, expected)
    assert all(x.dtype == torch.bfloat16 and torch.equal(x, seen[site].bfloat16()) for site, x in found.items())


def test_a_site_is_made_by_what_replaced_the_linears_before_it(tmp_path):
    blocks = Blocks(tiny_model(tmp_path / "m", "qwen2", layers=1), CPU, torch.float32)
    block, positions, hidden = blocks.build(0, blocks.tensors(0)), blocks.positions(5), torch.randn(2, 5, 128)
    for site, inputs in walk_sites(block, hidden, positions):
        inputs = list(inputs)
        if site.name == "o":
            assert not torch.cat(inputs).any()
        for linear in ("v_proj", "o_proj") if site.name == "qkv" else ():
            names = [f"model.layers.0.self_attn.{linear}.{part}" for part in ("weight", "bias")]
            blocks.fill(
                block, 0, {name: torch.zeros_like(blocks.tensors(0)[name]) for name in names if name in blocks.tensors(0)}
            )


@pytest.mark.parametrize("args", [None, ActivationArgs(num_bits=8, symmetric=False)])
def test_samples_of_linears_know_nothing_of_a_large_bias(args, tmp_path):
    blocks = Blocks(tiny_model(tmp_path / "m", "qwen2", layers=1), CPU, torch.float32)
    found = []
    for bias in (0.0, 400.0):  # as the keys' of Qwen2.5-1.5B: bfloat16 numbers are 2 apart there
        block = blocks.build(0, blocks.tensors(0))
        block.self_attn.k_proj.bias.fill_(bias)
        if args:
            block.self_attn.k_proj = FakeQuantLinear(block.self_attn.k_proj, args, 1)
        states = torch.randn(1, 6, 128, generator=torch.Generator().manual_seed(0))
        with sample_linears(block, 5) as samples, torch.autocast("cpu", torch.bfloat16):
            forward(block, states, blocks.positions(6))
        found.append(samples["k_proj"])
    for before, after in zip(*found, strict=True):
        assert len(before) == 5
        torch.testing.assert_close(after, before, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])  # without and with a key bias
def test_a_sample_of_keys_is_what_their_linear_makes_before_the_cache_quantizes_them(kind, tmp_path):
    blocks = Blocks(tiny_model(tmp_path / "m", kind, layers=1), CPU, torch.float32)
    block = blocks.build(0, blocks.tensors(0))
    quantize_cache(block, CacheArgs(num_bits=2, keys="pre_rope"))
    with sample_linears(block, 5) as samples:
        forward(block, torch.randn(1, 6, 128), blocks.positions(6))
    x, keys = samples["k_proj"]
    torch.testing.assert_close(keys, x @ block.self_attn.k_proj.weight.T)


def test_only_the_files_of_the_asked_layers_are_needed(tmp_path):
    folder = tiny_model(tmp_path / "m", shards=True)
    blocks = Blocks(folder, CPU, torch.float32)
    needed = blocks.weights.files(blocks.weights.names_under("model.layers.2."))
    for name in set(blocks.weights.files()) - set(needed):
        (folder / name).unlink()
    assert len(blocks.tensors(2)) == 12


def test_truncated_or_missing_weights_are_refused_by_name(tmp_path):
    folder = tiny_model(tmp_path / "m")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"model\.safetensors is not a readable safetensors file"):
        Blocks(folder, CPU, torch.float32)
    file.unlink()
    with pytest.raises(ArtifactError, match="holds neither"):
        Blocks(folder, CPU, torch.float32)


def test_unknown_architecture_is_refused_by_name(tmp_path):
    folder = tiny_model(tmp_path / "m")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"qwen2"', '"gpt_neox"'))
    with pytest.raises(ConfigError, match="'gpt_neox' is not supported"):
        Blocks(folder, CPU, torch.float32)


def changed(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return Blocks(folder, CPU, torch.float32)


def test_inverse_frequencies_of_older_checkpoints_are_left_alone(tmp_path):
    folder = tiny_model(tmp_path / "m", "llama", layers=1)
    names = Blocks(folder, CPU, torch.float32).tensors(0).keys()
    blocks = changed(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}))
    assert blocks.tensors(0).keys() == names
    blocks.build(0, blocks.tensors(0))


def test_weights_of_another_configuration_are_refused_by_name(tmp_path):
    folder = tiny_model(tmp_path / "m", "llama", layers=2)
    name = "model.layers.0.self_attn.q_proj.bias"
    blocks = changed(folder, lambda tensors: tensors.update({name: torch.ones(128)}))
    with pytest.raises(ArtifactError, match=f"asks for {name} not to be there, the weights hold \\[128\\]"):
        blocks.build(0, blocks.tensors(0))
    name = "model.layers.1.mlp.up_proj.weight"
    blocks = changed(folder, lambda tensors: tensors.update({name: tensors[name][:200].clone()}))
    with pytest.raises(ArtifactError, match=f"asks for {name} \\[256, 128\\], the weights hold \\[200, 128\\]"):
        blocks.build(1, blocks.tensors(1))


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path):
    folder = tiny_model(tmp_path / "m", layers=1)
    blocks = changed(folder, lambda tensors: tensors["model.layers.0.mlp.up_proj.weight"][3].fill_(torch.nan))
    with pytest.raises(ArtifactError, match=r"model\.layers\.0\.mlp\.up_proj\.weight is not finite"):
        blocks.tensors(0)
    blocks = changed(folder, lambda tensors: tensors["model.embed_tokens.weight"][3].fill_(torch.inf))
    with pytest.raises(ArtifactError, match=r"model\.embed_tokens\.weight is not finite"):
        blocks.embed(torch.tensor([[2, 3]]))


def test_batches_cover_all_sequences_once():
    parts = batches(10, 1000, tokens_at_once=4096)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(10))
    assert len(parts) == 3
    assert len(batches(3, 100_000)) == 3
