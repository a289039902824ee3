"""A model folder is one model for every engine, or it is refused by tensor, key and remedy; nothing outside it is taken along."""

import json

import numpy as np
import pytest
import tiny_models
import torch
from model_folder import CHAT_TEMPLATE, write_model
from ptqflow.artifacts.hub import HubFile
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.models import chat_templates, license_of, source_files, strays
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.modeling.anatomy import architecture
from ptqflow.modeling.tensors import check_model, stated_tensors
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
UP, Q = "model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj"
BIAS, OTHER = f"{Q}.bias", "model.layers.0.self_attn.o_proj.bias"


def changed(folder, change, **config):
    """The model with its tensors changed in place, and keys of its config.json."""
    write_model(folder, **config)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def with_nan(tensors):
    tensors[NORM][3] = np.nan


CASES = {
    "no head": (lambda t: None, {"tie_word_embeddings": False}, rf"lacks {HEAD}.*tie_word_embeddings is false"),
    "no norm": (lambda t: t.pop(NORM), {}, f"lacks {NORM}"),
    "no embedding": (lambda t: t.pop(EMBEDDING), {}, f"lacks {EMBEDDING}"),
    "norm of another width": (lambda t: t.update({NORM: np.ones(7, np.float32)}), {}, rf"{NORM} has shape \[7\].*hidden_size"),
    "embedding of another width": (lambda t: None, {"hidden_size": 16}, rf"{EMBEDDING} has shape \[262, 8\].*\[262, 16\]"),
    "fewer rows than tokens": (lambda t: None, {"vocab_size": 300}, rf"{EMBEDDING} has shape \[262, 8\].*\[300, 8\]"),
    "head of another size": (lambda t: t.update({HEAD: np.ones((8, 262), np.float16)}), {}, rf"{HEAD} has shape \[8, 262\]"),
    "another head": (lambda t: t.update({HEAD: np.zeros((262, 8), np.float16)}), {}, f"{HEAD} differs from {EMBEDDING}"),
    "the head in another dtype": (lambda t: t.update({HEAD: np.ones((262, 8), np.float32)}), {}, f"{HEAD} differs"),
    "integers": (lambda t: t.update({UP: np.ones((682, 8), np.int8)}), {}, "up_proj.weight.* I8"),
    "packed integers": (lambda t: t.update({"x.qweight": np.ones((4, 4), np.int32)}), {}, "x.qweight is stored as I32"),
    "norm not finite": (with_nan, {}, f"{NORM} holds values that are no finite"),
    "a weight not finite": (lambda t: t[UP].__setitem__((3, 3), np.inf), {}, f"{UP} holds values that are no finite"),
    "a half not finite": (lambda t: t[EMBEDDING].__setitem__((261, 7), -np.inf), {}, f"{EMBEDDING} holds values that are no"),
    "no up": (lambda t: t.pop(UP), {}, f"lacks {UP}, which"),
    "no bias": (lambda t: t.pop(BIAS), {}, f"lacks {BIAS}, which"),
    "up of another shape": (lambda t: t.update({UP: np.ones((8, 682), np.float32)}), {}, rf"{UP} has shape.*intermediate_size\)"),
    "keys of other heads": (lambda t: None, {"num_key_value_heads": 2}, r"k_proj.* has shape.*num_key_value_heads\)"),
    "an adapter": (
        lambda t: t.update({f"{Q}.lora_A.weight": np.ones((2, 8), np.float32)}),
        {},
        "lora_A.weight, for .*merge",
    ),
    "a bias not asked for": (
        lambda t: t.update({OTHER: np.ones(8, np.float32)}),
        {},
        rf"{OTHER}, for .*\(attention_bias is not true",
    ),
    "fewer blocks": (lambda t: None, {"num_hidden_layers": 2}, "hold 1 blocks, config.json says num_hidden_layers 2"),
    "more blocks": (
        lambda t: t.update({UP.replace(".0.", ".1."): t[UP]}),
        {},
        "hold 2 blocks.* num_hidden_layers 1",
    ),
    "null for tied": (lambda t: None, {"tie_word_embeddings": None}, "tie_word_embeddings is null, where true or false belongs"),
    "a factor in quotes": (
        lambda t: None,
        {"rope_scaling": {"type": "yarn", "factor": "4"}},
        'rope_scaling.factor is "4", where a number belongs',
    ),
    "no vocabulary": (lambda t: None, {"vocab_size": None}, "vocab_size is null"),
    "quantized in name": (lambda t: None, {"quantization_config": {"quant_method": "awq"}}, "quantization_config in config.json"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_engines_would_read_differently_is_refused(tmp_path, case):
    change, config, message = CASES[case]
    folder = changed(tmp_path / "m", change, **config)
    with pytest.raises((ArtifactError, ConfigError), match=message):
        check_model(folder, ["model.safetensors"], values=True)


@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_model_is_taken_tied_or_not(tmp_path, tied):
    folder = changed(tmp_path / "m", lambda t: t.update({HEAD: t[EMBEDDING].copy()}), tie_word_embeddings=tied)
    check_model(folder, ["model.safetensors"], values=True)


def test_buffers_that_every_engine_works_out_anew_are_passed_over(tmp_path):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    check_model(changed(tmp_path / "m", lambda t: t.update({name: np.ones(2, np.float32)})), ["model.safetensors"], values=True)


@pytest.mark.parametrize("kind", sorted(tiny_models._CONFIGS))
@pytest.mark.parametrize("biases", [False, True])
def test_what_is_stated_is_what_transformers_builds(kind, biases):
    """Names and shapes of each architecture's stock class, built without weights."""
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
    shape |= {"num_key_value_heads": 2, "tie_word_embeddings": False, "pad_token_id": 0}
    keys = architecture(kind).keys & {"attention_bias", "mlp_bias"}
    config = tiny_models._CONFIGS[kind](**shape, **dict.fromkeys(keys, biases))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    built = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stated = json.loads(config.to_json_string(use_diff=False))
    assert stated_tensors({key: value for key, value in stated.items() if value is not None}) == built


def test_an_adapter_beside_the_weights_is_refused(tmp_path):
    folder = write_model(tmp_path / "m")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"adapter_config.json, an adapter of its weights.*merge it"):
        source_files(folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    folder = write_model(tmp_path / "m", shards=2)
    first, second = folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors"
    save_file({**load_file(second), NORM: np.zeros(8, np.float16)}, second)
    with pytest.raises(ArtifactError, match=f"{NORM} is in model-00001.* and in model-00002"):
        check_model(folder, [first.name, second.name])


@pytest.mark.parametrize("value", [7, "x", {"a": 1}, ["a"], True])
def test_remote_code_is_refused_whatever_asks_for_it(tmp_path, value):
    with pytest.raises(ConfigError, match=r"asks for remote code \(auto_map: "):
        source_files(write_model(tmp_path / "m", auto_map=value))


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.json", "model.safetensors", "config.json"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, name):
    folder, outside = write_model(tmp_path / "m"), tmp_path / "private"
    if (folder / name).exists():
        (folder / name).rename(outside)
    else:
        outside.write_text("a token")
    (folder / name).symlink_to(outside)
    with pytest.raises(ConfigError, match=f"{name} is a link to a file outside the model folder"):
        source_files(folder)


def test_links_of_the_hubs_cache_and_within_the_folder_are_followed(tmp_path):
    snapshot = write_model(tmp_path / "models--a--b/snapshots/0123")
    blobs = tmp_path / "models--a--b/blobs"
    blobs.mkdir()
    names = source_files(snapshot)
    for number, name in enumerate(names):
        (snapshot / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    (snapshot / "LICENSE").symlink_to("README.md")
    assert source_files(snapshot) == sorted([*names, "LICENSE"])


def test_what_licence_and_templates_need_is_taken_along(tmp_path):
    folder = write_model(tmp_path / "m")
    (folder / "additional_chat_templates").mkdir()
    legal = {
        "NOTICE",
        "Notice.txt",
        "USE_POLICY.md",
        "LICENCE",
        "license.md",
        "COPYING",
        "Llama-3-LICENSE.pdf",
        "LICENSE-2.0.txt",
    }
    for name in (*legal, "additional_chat_templates/tool_use.jinja", "notice.py", "license.sh"):
        (folder / name).write_text("x")
    (folder / "additional_chat_templates/run.py").write_text("x")
    assert {*legal, "additional_chat_templates/tool_use.jinja"} < set(source_files(folder))
    assert not {"notice.py", "license.sh"} & set(source_files(folder))
    assert "additional_chat_templates/run.py" not in source_files(folder)


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: apache-2.0", "apache-2.0"),
        ("license:\n- mit\n- llama3", "mit, llama3"),
        ("license:\ntags:\n- chat", None),
        ("license: null", None),
        ("- license: mit", None),
        ("license: [broken", None),
    ],
)
def test_the_licence_is_what_the_hub_reads_in_the_model_card(tmp_path, front, licence):
    (tmp_path / "README.md").write_text(f"\ufeff---\n{front}\n---\n# A model\n")
    assert license_of(tmp_path) == licence


def test_a_chat_template_in_a_file_takes_the_place_of_that_in_the_configuration(tmp_path):
    """As in transformers itself."""
    folder = write_model(tmp_path / "m")
    assert chat_templates(folder) == [CHAT_TEMPLATE] == [AutoTokenizer.from_pretrained(folder).chat_template]
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert chat_templates(folder) == ["{{ messages }}"] == [AutoTokenizer.from_pretrained(folder).chat_template]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "chat_template.jinja", "additional_chat_templates/x.jinja", "modeling_x.py"]
)
def test_a_stray_file_that_a_loader_would_read_is_refused(tmp_path, name):
    folder = write_model(tmp_path / "m", shards=2)
    names = source_files(folder)
    Manifest.of_folder(folder, names, {}).write(folder)
    (folder / "notes").write_text("read by nobody")
    Manifest.read(folder / "manifest.json").verify(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    assert strays(folder, {*names, "manifest.json"}) == [name]
    with pytest.raises(ArtifactError, match=f"{name} is not listed"):
        Manifest.read(folder / "manifest.json").verify(folder)
    Manifest.read(folder / "manifest.json").verify(folder, names)


@pytest.mark.parametrize(
    ("size", "sha256", "blob"),
    [
        (3, "../" * 8 + "x", None),
        (3, None, "../../x"),
        (3, "0" * 63, None),
        (-1, "0" * 64, None),
        (3, None, None),
        (10**30, "0" * 64, None),
        ("3", "0" * 64, None),
    ],
)
def test_a_hub_that_states_no_size_and_hash_is_not_believed(size, sha256, blob):
    assert HubFile(3, "0" * 64, "a" * 40).bytes == 3
    with pytest.raises(ValueError, match="sha256"):
        HubFile(size, sha256, blob)


@pytest.mark.parametrize("change", [{"dtype": None}, {"dtype": ["F16"]}, {"dtype": "F32"}, {"shape": [4]}, {"shape": [-8]}])
def test_a_header_that_contradicts_itself_is_refused(tmp_path, change):
    path = write_model(tmp_path / "m") / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header[NORM].update(change)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(ArtifactError, match="is not a whole safetensors file"):
        source_files(path.parent)
