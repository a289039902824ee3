"""Laws of the vLLM plugin, for the pytest of vLLM's environment (`make check-engines` runs it on the checkpoints it made)."""

import json
import os
from pathlib import Path

import pytest

WORK = Path(os.environ.get("PTQFLOW_ENGINE_WORK", "nowhere"))
if not (WORK / "references").is_dir():
    pytest.skip("`make check-engines ENGINES=vllm` runs these in vLLM's environment", allow_module_level=True)
pytest.importorskip("vllm")

import torch  # noqa: E402
from compare import reference  # noqa: E402
from ptqflow.engines.vllm_layers import FakeQuantLinearMethod  # noqa: E402
from ptqflow.errors import ConfigError  # noqa: E402
from ptqflow.modeling.anatomy import architecture  # noqa: E402
from ptqflow.modeling.quantizer import recipe_of  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from vllm_proof import load, log_probabilities  # noqa: E402

W8A8KV8, FLAT = WORK / "rtn-w8a8kv8.fake", WORK / "flatquant-w4a4kv4.fake"


def reads(folder: Path):
    """A mark: the test reads this checkpoint, which a restricted check may have left out."""
    return pytest.mark.skipif(not folder.is_dir(), reason=f"{folder.name} is not among the recipes of this check")


reads_w8a8kv8, reads_flat = reads(W8A8KV8), reads(FLAT)


def changed(folder: Path, copy: Path, config=lambda config: None, tensors=lambda tensors: None) -> Path:
    """A copy of a checkpoint with its config and tensors edited in place."""
    copy.mkdir()
    data = json.loads((folder / "config.json").read_text())
    config(data)
    (copy / "config.json").write_text(json.dumps(data))
    weights = load_file(folder / "model.safetensors")
    tensors(weights)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.fixture(scope="module")
def tokens():
    return reference(WORK, "flatquant-w4a4kv4", "float32")[0][:4]


@pytest.fixture(scope="module")
def flat(tokens):
    """Prompts of 96 tokens in one piece, together."""
    return log_probabilities(load(FLAT, "float32", max_num_batched_tokens=1024), tokens)


@reads_flat
def test_chunked_prefill_reads_the_same_quantized_cache(tokens, flat):
    chunked = log_probabilities(load(FLAT, "float32", max_num_batched_tokens=32), tokens)
    assert (chunked - flat).abs().mean() < 0.02


@reads_flat
def test_a_prompt_alone_equals_itself_in_a_batch(tokens, flat):
    llm = load(FLAT, "float32", max_num_batched_tokens=1024)
    alone = torch.cat([log_probabilities(llm, row[None]) for row in tokens])
    assert (alone - flat).abs().mean() < 0.02


@reads_flat
def test_quantizers_run(tokens, flat, tmp_path):
    plain = changed(FLAT, tmp_path / "plain", lambda c: c.pop("quantization_config"), strip)
    assert (log_probabilities(load(plain, "float32"), tokens) - flat).abs().mean() > 0.2


def strip(tensors):
    for name in [name for name in tensors if "_trans" in name or "_clip" in name]:
        del tensors[name]


@reads_flat
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.input_layernorm.left_trans",
        "model.layers.0.mlp.down_proj.right_trans",
        "model.layers.2.self_attn.v_proj.input_clip",
        "model.layers.3.self_attn.cache_transform.k_trans",
        "model.layers.2.mlp.up_proj.weight",
    ],
)
def test_a_missing_tensor_is_named(name, tmp_path):
    broken = changed(FLAT, tmp_path / "broken", tensors=lambda tensors: tensors.pop(name))
    with pytest.raises(Exception, match=rf"{name.split('.')[-1]} is missing in the checkpoint"):
        load(broken, "float32")


@reads_w8a8kv8
def test_another_version_is_refused(tmp_path):
    broken = changed(W8A8KV8, tmp_path / "c", lambda c: c["quantization_config"].update(version=2))
    with pytest.raises(Exception, match="version 2, unknown keys \\[\\]; this ptqflow reads version 1"):
        load(broken, "float32")


@reads_w8a8kv8
def test_a_wrong_recipe_is_refused(tmp_path):
    broken = changed(W8A8KV8, tmp_path / "c", lambda c: c["quantization_config"]["recipe"].update(input_shard=3))
    with pytest.raises(Exception, match=r"quantization_config\.recipe: input_shard"):
        load(broken, "float32")


@reads_w8a8kv8
def test_a_cache_that_quantizes_again_is_refused():
    with pytest.raises(Exception, match="would quantize a cache that the checkpoint's recipe quantizes already"):
        load(W8A8KV8, "bfloat16", kv_cache_dtype="fp8")


@reads_w8a8kv8
def test_ranks_that_cut_input_shards_are_refused():
    config = json.loads((W8A8KV8 / "config.json").read_text())["quantization_config"]
    method = FakeQuantLinearMethod(architecture("qwen2"), recipe_of(config), 0, ["o_proj"], "model.layers.0.self_attn.o_proj")
    layer, shape = torch.nn.Module(), {"output_partition_sizes": [256], "input_size": 256, "output_size": 256}
    attributes = {"params_dtype": torch.float32, "weight_loader": None}
    with pytest.raises(ConfigError, match="tensor_parallel_size 4 would cut the recipe's input_shards 2"):
        method.create_weights(layer, 64, **shape, **attributes)
    method.create_weights(layer, 128, **shape, **attributes)
    assert method.shards == 1
