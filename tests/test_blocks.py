import pytest
import torch
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.modeling.blocks import Blocks, batches, forward, watch_sites
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


def test_batches_cover_all_sequences_once():
    parts = batches(10, 1000, tokens_at_once=4096)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(10))
    assert len(parts) == 3
    assert len(batches(3, 100_000)) == 3
