"""Whatever a model folder holds, it is one model for every reader, or one sentence refuses it: no traceback, no hang, and nothing
that an engine would pass over, fill in or read differently. The fast suite draws few folders, the slow one (`--slow`) hundreds.
"""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from fuzzing import SECONDS, fuzz, scalars, values
from hypothesis import given
from hypothesis import strategies as st
from model_folder import write_tokenizer
from ptqflow.artifacts import schemas
from ptqflow.artifacts.tables import write_rows
from ptqflow.cli import main
from ptqflow.modeling.anatomy import KEYS, WITHOUT_EFFECT, architecture, known
from ptqflow.modeling.blocks import Blocks, forward
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

WEIGHTS, CONFIG = "model.safetensors", "config.json"
TOKENS = torch.randint(3, 260, (2, 12), generator=torch.Generator().manual_seed(0))
ODD_KEYS = ["quantization_config", "compression_config", "auto_map", "logit_scale", "embedding_multiplier", "num_experts", "x"]

STRAYS = ["adapter_config.json", "model.safetensors.index.json", "pytorch_model.bin", "modeling_x.py", "a\nb", "x.jinja"]
GARBAGE = [b"", b"null", b"[]", b"<html></html>", b"\xff\xfe", b"[" * 5000, b'"\\ud800"']


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """A tiny model of every architecture, with the tokenizer of bytes."""
    found = {}
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 262}
    shape |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
    for kind in known():
        torch.manual_seed(0)
        folder = found[kind] = tmp_path_factory.mktemp(kind) / "m"
        tied = kind in ("gemma2", "qwen2")
        model = AutoModelForCausalLM.from_config(tiny_models._CONFIGS[kind](**shape, tie_word_embeddings=tied))
        model.save_pretrained(folder)
        write_tokenizer(folder)
    return found


@st.composite
def changed_config(draw, config):
    kind = architecture(config["model_type"])
    for _ in range(draw(st.integers(1, 2))):
        match draw(st.sampled_from(["replace", "replace", "remove", "add", "add"])):
            case "replace":
                config[draw(st.sampled_from(sorted(config)))] = draw(values)
            case "remove":
                config.pop(draw(st.sampled_from(sorted(config))))
            case "add":
                names = sorted(KEYS | WITHOUT_EFFECT | kind.keys) + ODD_KEYS
                config[draw(st.sampled_from(names))] = draw(st.one_of(values, st.integers(1, 64)))
    return config


def changed_tensors(draw, tensors):
    name = draw(st.sampled_from(sorted(tensors)))
    value = tensors[name]
    match draw(st.sampled_from(["drop", "rename", "shape", "dtype", "value", "extra", "block"])):
        case "drop":
            del tensors[name]
        case "rename":
            old, new = draw(st.sampled_from([("model.", ""), (".weight", ".qweight"), (".1.", ".2."), ("proj", "proj.lora_A")]))
            tensors[name.replace(old, new)] = tensors.pop(name)
        case "shape":
            tensors[name] = draw(st.sampled_from([value.reshape(-1), value[:-1], value.T.copy(), value[None], value[:0]]))
        case "dtype":
            tensors[name] = value.astype(draw(st.sampled_from([np.int8, np.int32, np.float16, np.float64, np.bool_, np.uint8])))
        case "value":
            value.reshape(-1)[draw(st.integers(0, value.size - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 0, 1e30]))
        case "extra":
            new = draw(st.sampled_from(["x", f"{name}_scale", "model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight"]))
            tensors[new] = draw(st.sampled_from([value, np.ones(2, np.float32)]))
        case "block":
            for part in [part for part in tensors if ".layers.1." in part]:
                tensors[part.replace(".1.", draw(st.sampled_from([".0.", ".2.", ".10.", ".x."])))] = tensors.pop(part)


def changed_files(draw, folder):
    path = draw(st.sampled_from(sorted(folder.iterdir())))
    match draw(st.sampled_from(["cut", "garbage", "remove", "folder", "link", "extra", "value"])):
        case "cut":
            path.write_bytes(path.read_bytes()[: draw(st.integers(0, path.stat().st_size))])
        case "garbage":
            path.write_bytes(
                draw(st.sampled_from([b"", b"null", b"[]", b"<html></html>", b"\xff\xfe", b"[" * 5000, b'"\\ud800"']))
            )
        case "remove":
            path.unlink()
        case "folder":
            path.unlink()
            path.mkdir()
        case "link":
            path.unlink()
            path.symlink_to(draw(st.sampled_from(["/etc/hostname", "nowhere", "config.json", path.name])))
        case "extra":
            names = [
                "adapter_config.json",
                "model.safetensors.index.json",
                "pytorch_model.bin",
                "modeling_x.py",
                "a\nb",
                "x.jinja",
            ]
            (folder / draw(st.sampled_from(names))).write_text(draw(st.sampled_from(["", "{}", '{"weight_map": {"a": "../x"}}'])))
        case "value" if path.suffix == ".json":
            value = json.loads(path.read_text())
            value[draw(st.one_of(st.sampled_from(sorted(value)), st.just("x")))] = draw(scalars)
            path.write_text(json.dumps(value))


@st.composite
def folders(draw, models, target):
    """A model with its configuration, its tensors or its files changed, or some of these."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(models[draw(st.sampled_from(sorted(models)))], target)
    changes = draw(st.sets(st.sampled_from(["config", "tensors", "files"]), min_size=1, max_size=2))
    if "config" in changes:
        config = draw(changed_config(json.loads((target / CONFIG).read_text())))
        (target / CONFIG).write_text(json.dumps(config, default=str, skipkeys=True))
    if "tensors" in changes:
        tensors = load_file(target / WEIGHTS)
        changed_tensors(draw, tensors)
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, target / WEIGHTS)
    if "files" in changes:
        changed_files(draw, target)
    return target


def command(stage, settings, *options):
    return main([stage, "--settings", json.dumps(settings), *map(str, options)])


def loads_whole(folder):
    """transformers fills in and passes over nothing, and the block walker computes what it computes."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    blocks = Blocks(folder, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        expected = model.eval()(TOKENS, output_hidden_states=True).hidden_states
        hidden = blocks.embed(TOKENS)
        for layer in range(blocks.config.num_hidden_layers):
            torch.testing.assert_close(hidden, expected[layer], equal_nan=True, rtol=1e-4, atol=1e-4)
            hidden = forward(blocks.build(layer, blocks.tensors(layer)), hidden, blocks.positions(TOKENS.shape[1]))
        torch.testing.assert_close(model.model.norm(hidden), expected[-1], equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strength", fuzz(20, 500))
def test_any_model_folder_is_one_model_or_is_refused_in_a_sentence(strength, models, tmp_path, capsys):
    words = tmp_path / "words.jsonl"
    words.write_text(json.dumps({"id": "a", "text": "some words of a text " * 20}))
    rows = [{"sequence": i, "tokens": row.tolist(), "source": "x", "rows": [], "offset": i} for i, row in enumerate(TOKENS)]
    write_rows(tmp_path / "tokens.parquet", schemas.TOKENS, rows, {})
    perplexity = {"task": "t", "benchmark": "text", "source": {"path": str(words)}, "protocol": {"window": 16}}
    accepted = 0

    @strength
    @given(folders(models, tmp_path / "m"))
    def check(folder):
        nonlocal accepted
        start = time.perf_counter()
        manifest = tmp_path / "fetched" / "manifest.json"
        shutil.rmtree(manifest.parent, ignore_errors=True)
        shutil.rmtree(tmp_path / "collected", ignore_errors=True)
        status = command("fetch", {"path": os.fspath(folder)}, "--output", manifest)
        said = capsys.readouterr().err.strip().splitlines()
        assert status == 0 or len(said[-1]) < 2000
        assert status in (0, 1, 2)
        if status == 0:
            options = ("--model", manifest, "--tokens", tmp_path / "tokens.parquet")
            collected = command("collect", {"chunks": 1}, *options, "--output", tmp_path / "collected" / "manifest.json")
            asked = ("--platform", "cpu", "--checkpoint", manifest, "--output", tmp_path / "generated.parquet")
            generated = command("generate", perplexity, *asked)
            if collected == generated == 0:
                accepted += 1
                loads_whole(manifest.parent)
        assert time.perf_counter() - start < SECONDS

    check()
    assert accepted
