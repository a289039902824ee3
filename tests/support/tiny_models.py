"""Tiny random models, calibration tokens and stage calls, as the quantization tests need them."""

import json
from pathlib import Path
from typing import Any

import torch
from ptqflow.artifacts import schemas
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.tables import write_rows
from ptqflow.chunks import chunk_layers
from ptqflow.cli import main
from ptqflow.modeling.anatomy import architecture
from ptqflow.recipes import Recipe
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config

_CONFIGS: dict[str, Any] = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig} | {
    "mistral": MistralConfig,
    "phi3": Phi3Config,
    "gemma2": Gemma2Config,
}
VOCABULARY = 64
QWEN2 = architecture("qwen2")


def tiny_model(
    folder: Path,
    kind: str = "qwen2",
    dtype: torch.dtype = torch.float32,
    shards: bool = False,
    layers: int = 3,
    outliers: bool = True,
    **more: Any,
) -> Path:
    """Write a random model (hidden 128, 4 heads, 2 KV heads, tied embeddings; `more` of its config) with its manifest.

    Returns its path.
    """
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": layers, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 256}
    if kind == "qwen3":
        shape["head_dim"] = 64  # not hidden_size / heads
    config = _CONFIGS[kind](**shape | more, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.08)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if outliers:
            for block in model.model.layers:
                block.input_layernorm.weight[:3] *= 30
                block.post_attention_layernorm.weight[5:8] *= 30
    model = model.to(dtype)
    model.save_pretrained(folder, max_shard_size="200KB" if shards else "1GB")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    Manifest.of_folder(folder, [path.name for path in folder.iterdir()], {}).write(folder)
    return folder


def calibration_tokens(path: Path, sequences: int = 12, length: int = 24, seed: int = 0) -> Path:
    """Write random token sequences as the tokens stage would."""
    tokens = torch.randint(3, VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(seed))
    rows = [
        {"sequence": i, "tokens": row.tolist(), "source": "random", "rows": [], "offset": i * length}
        for i, row in enumerate(tokens)
    ]
    write_rows(path, schemas.TOKENS, rows, {})
    return path


def stage(name: str, settings: dict[str, Any], *options: object) -> int:
    """Run one stage through the command line; returns its exit status."""
    return main([name, "--settings", json.dumps(settings), *map(str, options)])


def collect(model: Path, work: Path, chunks: int = 1) -> Path:
    """Tokens and `collect`; returns the calibration's manifest."""
    tokens, output = calibration_tokens(work / "tokens.parquet"), work / f"calibration-{chunks}" / "manifest.json"
    options = ("--model", model / "manifest.json", "--tokens", tokens, "--output", output)
    assert stage("collect", {"chunks": chunks}, *options) == 0
    return output


def quantize(model: Path, calibration: Path, recipe: Recipe, work: Path, chunks: int = 1, **more: object) -> list[Path]:
    """`quantize` for every chunk; returns the qparams (diagnostics lie beside them). `more`: settings."""
    layers = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    paths = []
    for k, chunk in enumerate(chunk_layers(layers, chunks)):
        folder = work / f"chunk={k}"
        settings = {"recipe": recipe.for_layers(chunk).dump(), "chunk": k, "layers": [chunk.start, chunk.stop], **more}
        options = ("--model", model / "manifest.json", "--calibration", calibration)
        outputs = ("--qparams", folder / "qparams.safetensors", "--diagnostics", folder / "diagnostics.parquet")
        outputs += ("--losses", folder / "losses.parquet")
        assert stage("quantize", settings, *options, *outputs) == 0
        paths.append(folder / "qparams.safetensors")
    return paths


def export(model: Path, qparams: list[Path], recipe: Recipe, folder: Path, form: str = "fake") -> Path:
    """`export` of one form; returns the checkpoint's folder."""
    options = ("--model", model / "manifest.json", "--qparams", *qparams, "--output", folder / "manifest.json")
    assert stage("export", {"recipe": recipe.dump(), "form": form}, *options) == 0
    return folder


def fake_checkpoint(model: Path, recipe: Recipe, work: Path, chunks: int = 1) -> Path:
    """collect, quantize and export in one step."""
    calibration = collect(model, work, chunks)
    return export(model, quantize(model, calibration, recipe, work / "quantized", chunks), recipe, work / "checkpoint")
