import pytest
import transformers
from ptqflow.chunks import chunk_layers
from ptqflow.errors import ConfigError
from ptqflow.modeling.dimensions import head_dim, linear_shapes
from ptqflow.modeling.shapes import check_recipe, packed_bytes
from ptqflow.presets import resolve
from ptqflow.scheme import WeightArgs

QWEN_1_5B = {"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
QWEN_1_5B |= {"num_attention_heads": 12, "num_key_value_heads": 2}
QWEN3_32B = {"model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "head_dim": 128}
QWEN3_32B |= {"num_attention_heads": 64, "num_key_value_heads": 8}


def test_shapes_of_published_models():
    assert linear_shapes(QWEN_1_5B)["k_proj"] == (256, 1536)
    assert linear_shapes(QWEN_1_5B)["down_proj"] == (1536, 8960)
    assert linear_shapes(QWEN3_32B)["o_proj"] == (5120, 8192)  # head_dim is not hidden / heads


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Llama"])
def test_a_head_that_the_config_does_not_state_is_as_wide_as_in_transformers(kind):
    config = {"model_type": kind.lower(), "hidden_size": 512, "num_attention_heads": 8}
    known = getattr(transformers, f"{kind}Config").from_dict(config)
    assert head_dim(config) == (getattr(known, "head_dim", None) or 64)  # Qwen2's attention: hidden / heads


def test_group_that_does_not_divide_a_shard_is_refused_with_the_remedy():
    recipe = resolve({"preset": "gptq-w4a16", "input_shards": 4})
    with pytest.raises(ConfigError) as refused:
        check_recipe(recipe, QWEN_1_5B, "w4", "r1-1.5b")
    assert str(refused.value) == (
        "recipe 'w4': weights.group_size 128 does not divide down_proj in_features 2240 (model r1-1.5b, input_shards 4); "
        "use input_shards 1 or group_size 64"
    )
    check_recipe(resolve({"preset": "gptq-w4a16"}), QWEN_1_5B, "w4", "r1-1.5b")


@pytest.mark.parametrize(
    ("entry", "config", "message"),
    [
        ({"preset": "rtn-w8a8", "input_shards": 8}, QWEN_1_5B, "12 attention heads"),
        (
            {"preset": "rtn-w8a8", "overrides": [{"layers": [28], "weights": None}]},
            QWEN_1_5B,
            r"layers \[28\].* has layers 0 to 27",
        ),
        ({"preset": "rtn-w8a8"}, QWEN_1_5B | {"model_type": "opt"}, "'opt' is not supported"),
        ({"preset": "rtn-w8a8"}, QWEN_1_5B | {"attention_gate": True}, "attention_gate is not understood for model_type qwen2"),
        ({"preset": "rtn-w8a8"}, QWEN_1_5B | {"quantization_config": {}}, "quantized already"),
    ],
)
def test_recipes_and_models_that_do_not_fit_are_refused(entry, config, message):
    with pytest.raises(ConfigError, match=message):
        check_recipe(resolve(entry), config, "w8", "r1-1.5b")


def test_packed_bytes_of_known_formats():
    grouped = WeightArgs(num_bits=4, symmetric=False, strategy="group", group_size=128)
    assert packed_bytes((1536, 8960), grouped, 1) == 1536 * 8960 // 2 + 1536 * 70 * 3
    channel = WeightArgs(num_bits=8, strategy="channel")
    assert packed_bytes((1536, 8960), channel, 4) == 1536 * 8960 + 1536 * 4 * 2


def test_chunks_cover_all_layers_evenly():
    assert chunk_layers(10, 3) == [range(0, 4), range(4, 7), range(7, 10)]
    assert chunk_layers(4, 4) == [range(i, i + 1) for i in range(4)]
    for chunks in (0, 5):
        with pytest.raises(ConfigError, match="use 1 to 4"):
            chunk_layers(4, chunks)
