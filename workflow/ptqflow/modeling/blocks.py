"""The block walker: one decoder block of a checkpoint at a time, as transformers' own module. Never the whole model."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptqflow.modeling.architectures import EMBEDDING, SITES, architecture_of, block_prefix, module_name
from ptqflow.modeling.attention_name import ATTENTION_NAME
from ptqflow.modeling.fake_quant import register_attention
from ptqflow.modeling.weights import Weights
from ptqflow.recipes import LINEARS

Positions = tuple[Tensor, Tensor]  # cosines and sines of the rotary embedding, [1, tokens, head_dim]


class Blocks:
    """The decoder blocks of a model folder, loaded on demand onto `device` in `dtype`."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Read `config.json` and the index of the weights. Raises ConfigError for an unsupported architecture."""
        config = json.loads((folder / "config.json").read_text())
        self.weights = Weights(folder)
        self.device, self.dtype = device, dtype
        self._architecture = architecture_of(config)
        self.config: Any = self._architecture.class_of("Config").from_dict(config)
        register_attention()
        self.config._attn_implementation = ATTENTION_NAME  # sdpa, plus whatever a block does to its cache
        self._rotary = self._architecture.class_of("RotaryEmbedding")(self.config).to(device)

    def embed(self, tokens: Tensor) -> Tensor:
        """Hidden states [sequences, tokens, hidden] (on the CPU) entering the first block, from token ids [sequences, tokens]."""
        table = self.weights[EMBEDDING]
        hidden = torch.empty(*tokens.shape, table.shape[1], dtype=self.dtype)
        for states, ids in zip(hidden, tokens, strict=True):  # one by one: no second copy of all in the dtype of the table
            states.copy_(nn.functional.embedding(ids, table))
        return hidden

    def tensors(self, layer: int) -> dict[str, Tensor]:
        """The tensors of block `layer` by their names in the checkpoint, in their stored dtype, on the CPU."""
        return self.weights.load(self.weights.names_under(block_prefix(layer)))

    def build(self, layer: int, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> nn.Module:
        """Decoder block `layer` with `tensors`, in evaluation mode; every tensor must be there and be used.

        `dtype` of its parameters: `self.dtype` unless given.
        """
        with torch.device("meta"):
            block: nn.Module = self._architecture.class_of("DecoderLayer")(self.config, layer)
        prefix = block_prefix(layer)
        state = {name.removeprefix(prefix): t.to(self.device, dtype or self.dtype) for name, t in tensors.items()}
        block.load_state_dict(state, strict=True, assign=True)
        return block.eval().requires_grad_(False)

    def positions(self, tokens: int) -> Positions:
        """Rotary cosines and sines of positions 0 ... tokens - 1."""
        with torch.no_grad():
            cosines, sines = self._rotary(
                torch.empty(0, device=self.device, dtype=self.dtype), torch.arange(tokens, device=self.device).unsqueeze(0)
            )
        return cosines, sines


@torch.no_grad()
def forward(block: nn.Module, hidden: Tensor, positions: Positions) -> Tensor:
    """Hidden states [batch, tokens, hidden] through one block with causal attention (no padding)."""
    output = block(hidden, attention_mask=None, position_embeddings=positions, use_cache=False)
    assert isinstance(output, Tensor)
    return output


class SeenEnough(Exception):
    """What a watcher raises to end a forward pass whose output nobody needs."""


@contextmanager
def watch_sites(block: nn.Module, watch: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `watch(site, x [batch, tokens, channels])` for each distinct linear input of each forward pass inside the context."""
    handles = []
    for site in SITES:

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], name: str = site.name) -> None:
            watch(name, inputs[0])

        handles.append(block.get_submodule(module_name(site.linears[0])).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def sample_linears(block: nn.Module, tokens: int) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """By linear: input [tokens, in] and output without its bias [tokens, out] in the first forward pass inside the context.

    float32 copies of the first `tokens` tokens. The input is what the linear is given: transforms have acted on it, its own
    quantizer has not.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    handles = []
    for linear in LINEARS:

        def hook(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor, name: str = linear) -> None:
            if name not in found:
                x, y = (t.flatten(0, -2)[:tokens].float() for t in (inputs[0], output))
                found[name] = x.clone(), y.clone() if module.bias is None else y - module.bias.float()

        handles.append(block.get_submodule(module_name(linear)).register_forward_hook(hook))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def batches(sequences: int, tokens: int, tokens_at_once: int = 2048) -> list[slice]:
    """Slices of sequences with about `tokens_at_once` tokens each, at least one sequence."""
    size = max(1, tokens_at_once // tokens)
    return [slice(start, min(start + size, sequences)) for start in range(0, sequences, size)]
