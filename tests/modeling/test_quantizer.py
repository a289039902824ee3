import json
import shutil
import subprocess
import sys

import pytest
import torch
from ptqflow.errors import ConfigError
from ptqflow.modeling import fake_quant
from ptqflow.modeling.blocks import Blocks, forward
from ptqflow.modeling.fake_quant import FakeQuantLinear, cache_attention, quantize_block
from ptqflow.numerics.grid import fake_quantize
from ptqflow.presets import resolve
from ptqflow.scheme import ActivationArgs
from tiny_models import fake_checkpoint, tiny_model
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

W4A4KV4 = resolve({"preset": "rtn-w4a4kv4", "input_shards": 2})
PROMPTS = torch.tensor([[0, 0, 5, 6, 9], [4, 5, 6, 7, 8]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    work = tmp_path_factory.mktemp("quantizer")
    return fake_checkpoint(tiny_model(work / "m"), W4A4KV4, work)


@pytest.fixture(scope="module")
def model(checkpoint):
    return AutoModelForCausalLM.from_pretrained(checkpoint).eval()


def python(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_fake_quantized_linear_quantizes_its_input_per_token_and_shard():
    linear = torch.nn.Linear(32, 8)
    quantized = FakeQuantLinear(linear, W4A4KV4.input_activations(0, "down_proj"), 2)
    x = torch.randn(3, 5, 32)
    assert torch.equal(quantized(x), linear(fake_quantize(x, 4, False, shards=2)))
    assert list(quantized.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize(("bits", "ends"), [(4, [-8.0, 7.0]), (8, [-128.0, 127.0])])
def test_a_static_grid_has_the_integers_of_its_bits(bits, ends):
    args = ActivationArgs(num_bits=bits, strategy="tensor", dynamic=False)
    quantized = FakeQuantLinear(torch.nn.Linear(4, 3), args, 1)
    quantized.input_scale.data = torch.tensor([0.5])
    assert quantized.quantized(torch.tensor([-99.0, 99.0, 0.6, -1.25])).tolist() == [ends[0] / 2, ends[1] / 2, 0.5, -1.0]


def test_loaded_checkpoint_equals_the_manual_computation(checkpoint, model, tmp_path):
    linears = {name: module for name, module in model.named_modules() if isinstance(module, FakeQuantLinear)}
    assert len(linears) == 3 * 7
    assert {name.rpartition(".")[2] for name, module in linears.items() if module.input_shards == 2} == {"o_proj", "down_proj"}
    tokens = torch.randint(3, 64, (2, 12))
    plain = tmp_path / "plain"  # the walker refuses quantized models as input: hide that key from it
    shutil.copytree(checkpoint, plain)
    config = json.loads((plain / "config.json").read_text())
    del config["quantization_config"]
    (plain / "config.json").write_text(json.dumps(config))
    blocks = Blocks(plain, torch.device("cpu"), torch.float32)
    hidden = blocks.embed(tokens)
    for layer in range(3):
        block = blocks.build(layer, blocks.tensors(layer))
        quantize_block(block, W4A4KV4, layer)
        hidden = forward(block, hidden, blocks.positions(12))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, model.lm_head(model.model.norm(hidden)))


def test_what_several_linears_read_is_quantized_once(model, monkeypatch):
    asked = []
    monkeypatch.setattr(fake_quant, "fake_quantize", lambda x, *args: asked.append(x) or fake_quantize(x, *args))
    with torch.no_grad():
        model(torch.randint(3, 64, (2, 12)))
    assert len(asked) == 3 * 4  # q, k, v; o; gate, up; down of each block


def test_cache_is_quantized_per_token_and_head_after_rope(model):
    attention = model.model.layers[0].self_attn
    key, value = torch.randn(2, 2, 6, 32), torch.randn(2, 2, 6, 32)
    quantized_key, quantized_value = attention.cache_transform(key, value)
    assert torch.equal(quantized_key[1, 1, 3], fake_quantize(key[1, 1, 3], 4, False))
    assert torch.equal(quantized_value[0, 1, 5], fake_quantize(value[0, 1, 5], 4, False))
    assert quantized_key.unique().numel() <= 2 * 2 * 6 * 16


def test_attention_reads_quantized_keys_and_quantized_values(model):
    attention = model.model.layers[0].self_attn
    query, key, value = torch.randn(1, 4, 6, 32), torch.randn(1, 2, 6, 32), torch.randn(1, 2, 6, 32)
    output, _ = cache_attention(attention, query, key, value, None, scaling=attention.scaling)
    key, value = fake_quantize(key, 4, False), fake_quantize(value, 4, False)
    expected, _ = sdpa_attention_forward(attention, query, key, value, None, scaling=attention.scaling)
    assert torch.equal(output, expected)


def test_decoding_with_a_cache_equals_a_full_forward_pass(model):
    tokens = torch.randint(3, 64, (2, 10))
    with torch.no_grad():
        full = model(tokens).logits
        first = model(tokens[:, :6], use_cache=True)
        cache, steps = first.past_key_values, [first.logits]
        for i in range(6, 10):
            step = model(tokens[:, i : i + 1], past_key_values=cache, use_cache=True)
            steps.append(step.logits)
    torch.testing.assert_close(torch.cat(steps, 1), full, rtol=1e-4, atol=1e-4)


def test_left_padding_changes_nothing_in_a_batch(model):
    with torch.no_grad():
        positions = (MASK.cumsum(1) - 1).clamp(min=0)
        batch = model(PROMPTS, attention_mask=MASK, position_ids=positions).logits[0, 2:]
        alone = model(PROMPTS[:1, 2:]).logits[0]
    torch.testing.assert_close(batch, alone, rtol=1e-4, atol=1e-4)
    generate = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    both = model.generate(PROMPTS, attention_mask=MASK, **generate)
    assert torch.equal(both[0, 5:], model.generate(PROMPTS[:1, 2:], attention_mask=MASK[:1, 2:], **generate)[0, 3:])


def test_prefill_reads_the_quantized_cache(model):
    tokens = torch.randint(3, 64, (1, 8))
    with torch.no_grad():
        quantized = model(tokens).logits
        transforms = [block.self_attn.cache_transform for block in model.model.layers]
        for block in model.model.layers:
            block.self_attn.cache_transform = None
        plain = model(tokens).logits
        for block, transform in zip(model.model.layers, transforms, strict=True):
            block.self_attn.cache_transform = transform
    assert (quantized - plain).abs().max() > 1e-3


def test_other_attention_that_would_read_unquantized_keys_is_refused(checkpoint):
    with pytest.raises(ConfigError, match="'eager' cannot quantize the cache"):
        AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager")
    AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="sdpa")


TRANSFORMERS_FIRST = """
import sys
from transformers import AutoModelForCausalLM
try:
    AutoModelForCausalLM.from_pretrained(sys.argv[1])
except ValueError as error:
    print(error)
import ptqflow
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(type(model.model.layers[0].mlp.up_proj).__name__)
"""


def test_transformers_refuses_the_checkpoint_until_ptqflow_is_imported(checkpoint):
    result = python(TRANSFORMERS_FIRST, checkpoint)
    refused, loaded = result.stdout.splitlines()
    assert 'attn_implementation="ptqflow"` is not supported' in refused
    assert loaded == "FakeQuantLinear"


def test_quantizer_is_registered_when_ptqflow_is_imported_first():
    result = python("import ptqflow, transformers.quantizers.auto as auto; print('ptqflow' in auto.AUTO_QUANTIZER_MAPPING)")
    assert result.stdout.strip() == "True", result.stderr


def test_importing_ptqflow_alone_imports_neither_torch_nor_transformers():
    result = python(
        "import sys, ptqflow, ptqflow.modeling.shapes, ptqflow.chunks; print({'torch', 'transformers'} & set(sys.modules))"
    )
    assert result.stdout.strip() == "set()", result.stderr


def test_unknown_version_or_keys_of_the_config_are_refused():
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as known

    with pytest.raises(ConfigError, match="version 2"):
        known["ptqflow"](recipe={}, version=2)
    with pytest.raises(ConfigError, match="extra"):
        known["ptqflow"](recipe={}, version=1, extra=0)
