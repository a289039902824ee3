"""What a linear of a fake checkpoint computes, from its files alone: an independent reading of the form, in float32."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

NORMS = {"q_proj": "input_layernorm", "k_proj": "input_layernorm", "v_proj": "input_layernorm"} | {
    "gate_proj": "post_attention_layernorm",
    "up_proj": "post_attention_layernorm",
}


@dataclass
class Linear:
    """y = Q(Lᵀ X R) Wᵀ + b, with Q the symmetric grid of each token's range, clipped at `ratio`. None: that step is not there.

    `bits`: of the dynamic grid. `step`: of a static one.
    """

    weight: Tensor
    bias: Tensor | None
    bits: int | None
    left: Tensor | None
    right: Tensor | None
    ratio: float
    step: float | None

    def __call__(self, x: Tensor) -> Tensor:
        """x [tokens, in] -> [tokens, out], float32."""
        x = x.float()
        if self.left is not None and self.right is not None:
            x = (self.left.T @ x.view(-1, len(self.left), len(self.right)) @ self.right).flatten(1)
        if self.bits is not None:
            top = 2 ** (self.bits - 1) - 1
            step = x.abs().amax(-1, keepdim=True) * self.ratio / top if self.step is None else self.step
            x = torch.round(x / step).clamp(-top - 1, top) * step
        return torch.nn.functional.linear(x, self.weight, self.bias)


def linears(folder: Path) -> dict[str, Linear]:
    """Every block linear of a fake checkpoint by its name."""
    tensors = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    recipe = json.loads((folder / "config.json").read_text()).get("quantization_config", {}).get("recipe")
    return {
        name.removesuffix(".weight"): _linear(name.removesuffix(".weight"), tensors, recipe)
        for name in tensors
        if name.endswith("_proj.weight")
    }


def _linear(prefix: str, tensors: Mapping[str, Tensor], recipe: Any) -> Linear:
    block, kind = prefix.rsplit(".", 2)[0], prefix.rsplit(".", 1)[1]
    layer = int(block.split(".")[2])
    inputs = recipe["scheme"]["input_activations"] if recipe else None
    for override in recipe["overrides"] if recipe else []:
        covered = override.get("layers", "all") == "all" or layer in override["layers"]
        if (
            covered
            and (override.get("linears", "all") == "all" or kind in override["linears"])
            and "input_activations" in override
        ):
            inputs = override["input_activations"]
    assert inputs is None or inputs.get("symmetric", True), f"{prefix}: asymmetric inputs have no ModelSlim checkpoint"

    def part(name: str) -> Tensor | None:
        return tensors[name].float() if name in tensors else None

    norm = f"{block}.{NORMS.get(kind)}"
    left, right = part(f"{norm}.left_trans"), part(f"{norm}.right_trans")
    clip, step = part(f"{prefix}.input_clip"), part(f"{prefix}.input_scale")
    return Linear(
        tensors[f"{prefix}.weight"].float(),
        part(f"{prefix}.bias"),
        inputs["num_bits"] if inputs else None,
        None if left is None else left[0],
        None if right is None else right[0],
        1.0 if clip is None else clip[0, 0].item(),
        None if step is None else step.item(),
    )
