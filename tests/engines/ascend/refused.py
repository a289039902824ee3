"""Checkpoints that our exporter refuses because vllm-ascend 0.23 cannot serve them, made by hand to see that it cannot.

Each is a ModelSlim checkpoint of ours with another type in its description, or with tensors of another kind.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]
Description = dict[str, object]


@dataclass(frozen=True)
class Case:
    """A refusal: made by `change` from a checkpoint whose recipe's name has `recipe` in it; it must fail with `message`.

    `model_type`: of the models that it is about, where not all.
    """

    name: str
    recipe: str
    message: str
    change: Callable[[Tensors, Description], None]
    model_type: str | None = None

    def is_about(self, recipe: str, folder: Path) -> bool:
        """Whether it can be made from the checkpoint of `recipe` in `folder`."""
        config = json.loads((folder / "config.json").read_text())
        return self.recipe in recipe and self.model_type in (None, config["model_type"])


def _retyped(kind: str) -> Callable[[Tensors, Description], None]:
    def change(tensors: Tensors, description: Description) -> None:
        description |= {name: kind for name, old in description.items() if "_proj." in name and old != "FLOAT"}

    return change


def _c8(tensors: Tensors, description: Description) -> None:
    """Static scales and offsets of an 8-bit KV cache."""
    description["kv_cache_type"] = "C8"
    for name in [name for name in tensors if name.endswith(("k_proj.weight", "v_proj.weight"))]:
        channels = tensors[name].shape[0]
        for part, value in (("scale", 0.1), ("offset", 0.0)):
            key = name.replace(".weight", f".kv_cache_{part}")
            tensors[key], description[key] = torch.full((channels,), value), "C8"


def _o_across_heads(tensors: Tensors, description: Description) -> None:
    """FlatQuant on o_proj as it is learned: one matrix across heads."""
    for name in [name for name in tensors if name.endswith("o_proj.weight")]:
        prefix = name.removesuffix(".weight")
        tensors |= {f"{prefix}.left_trans": torch.eye(4, dtype=torch.bfloat16), f"{prefix}.clip_ratio": torch.ones(1)}
        description |= {key: "W4A4_FLATQUANT_DYNAMIC" for key in tensors if key.startswith(prefix)}


def _one_of_three(tensors: Tensors, description: Description) -> None:
    """q_proj of another type than k_proj and v_proj."""
    description |= {name: "W8A16" for name in description if "q_proj." in name}


CASES = (
    Case("W4A16", "w8a8", "NotImplementedError: Currently, vLLM Ascend doesn't support quant_type=W4A16", _retyped("W4A16")),
    Case("C8 on Qwen2", "w8a8", "KeyError: 'layers.0.self_attn.qkv_proj.kv_cache_offset'", _c8, "qwen2"),
    Case("W8A8 FlatQuant", "w8a8", "NotImplementedError", _retyped("W8A8_FLATQUANT_DYNAMIC")),
    Case("W4A8 per channel", "w8a8", "ZeroDivisionError", _retyped("W4A8_DYNAMIC")),
    Case("FlatQuant on o_proj", "flatquant-w4a4", "AssertionError", _o_across_heads),
    Case("q unlike k and v", "w8a8", "ValueError: Not all shards", _one_of_three),
)


def make(case: Case, source: Path, folder: Path) -> Path:
    """The changed checkpoint, in `folder`."""
    shutil.copytree(source, folder, symlinks=False)
    description = json.loads((folder / "quant_model_description.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    case.change(tensors, description)
    for file in [*files, *folder.glob("*.safetensors.index.json")]:
        file.unlink()
    save_file(tensors, folder / "quant_model_weights.safetensors")
    (folder / "quant_model_description.json").write_text(json.dumps(description))
    return folder
