"""Fake checkpoints through our plugin in vllm-ascend: its platform, classes and loader; linears and cache hooks run on the CPU.

As in `prove.py`, the rest of the model is transformers'. Its attention reads queries, keys and values as the forward pre-hooks of
vLLM's attention layer give them.
"""

from pathlib import Path
from typing import Any

import torch
from compare import Attempt
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from vllm_ascend.utils import register_ascend_customop

ATTENTION = "through_vllm_hooks"


def through_hooks(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> tuple[Tensor, None]:
    """An attention function of transformers: [batch, heads, tokens, head_dim] -> vLLM's hooks -> sdpa."""
    [layer] = module.layer_of_vllm
    batch, _, tokens, size = query.shape
    inputs: Any = tuple(x.transpose(1, 2).reshape(batch * tokens, -1) for x in (query, key, value))
    for hook in layer._forward_pre_hooks.values():
        inputs = hook(layer, inputs)
    query, key, value = (x.view(batch, tokens, -1, size).transpose(1, 2) for x in inputs)
    return sdpa_attention_forward(module, query, key, value, mask, **options)


def assemble(prove: Any, baseline: Path, model: Any) -> nn.Module:
    """transformers' model of the float checkpoint `baseline` with vLLM's tensors, linears and hooks."""
    served = prove.assemble(baseline, model, {})
    AttentionInterface.register(ATTENTION, through_hooks)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    served.set_attn_implementation(ATTENTION)
    for block, layer in zip(served.model.layers, model.model.layers, strict=True):
        block.self_attn.layer_of_vllm = [layer.self_attn.attn]
    return served


@torch.inference_mode()
def row(prove: Any, work: Path, recipe: str, folder: Path, scratch: Path) -> dict[str, Any]:
    """One row; `prove` is the module `ascend.prove`."""
    with Attempt(work, recipe, "fake", folder, prove.ENGINE, "bfloat16") as attempt, prove.engine(folder, scratch) as config:
        register_ascend_customop(config)  # as its worker does before it builds a model
        model, loaded, parameters = prove.load(config)
        attempt.loaded()
        served = assemble(prove, work / "baseline.float", model)
        attempt.compare(lambda tokens: served(tokens).logits[:, :-1])
        classes = f"{type(model.model.layers[0].self_attn.qkv_proj).__name__}, {type(model.model.norm).__name__}"
        attempt.row["message"] = f"{loaded}/{parameters} parameters; {classes}"
    return attempt.row
