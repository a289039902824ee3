"""A decoder block under a recipe: how states run through it, and what is gathered of its inputs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from ptqflow.devices.device import Device
from ptqflow.modeling import causal, online
from ptqflow.modeling.anatomy import ATTENTION, Architecture
from ptqflow.modeling.blocks import Blocks, SeenEnough, batches, forward
from ptqflow.modeling.fake_quant import quantize_block
from ptqflow.modeling.qparams import deployed
from ptqflow.numerics.gram import add_gram, mirror
from ptqflow.recipes import Recipe


@dataclass(frozen=True)
class Running:
    """Decoder block `layer`, the recipe for it, and how states run through it.

    `tensors`: its float tensors by checkpoint name; `stored`: those that say in which precision it runs.
    """

    blocks: Blocks
    layer: int
    recipe: Recipe
    device: Device
    tensors: Mapping[str, Tensor]
    stored: list[Tensor]
    tokens: int  # of a sequence
    choosing: int  # the first of the sequences, the last ones, by which a clip is chosen

    @property
    def architecture(self) -> Architecture:
        """What the block is made of."""
        return self.blocks.architecture

    @property
    def dtype(self) -> torch.dtype:
        """Of the block's parameters."""
        return self.device.parameter_dtype(self.stored)

    def precision(self) -> AbstractContextManager[None]:
        """Of the block's forward arithmetic."""
        return self.device.forward_precision(self.stored)

    def forward(self, block: nn.Module, states: Tensor, starts: Sequence[int] = (0,)) -> Tensor:
        """What a block makes of `states` [batch, tokens, hidden], which may be elsewhere; `starts`: their first positions."""
        with self.precision():
            output = forward(block, states.to(self.blocks.device), self.blocks.positions(self.tokens, starts))
        return output.to(states.device)

    def quantized_block(self, qparams: Mapping[str, Tensor]) -> nn.Module:
        """The block as `qparams` have it, quantizing activations and cache; weights that are not in there are float."""
        block = self.blocks.build(
            self.layer, {n: deployed(n, t, qparams, self.architecture) for n, t in self.tensors.items()}, self.dtype
        )
        quantize_block(block, self.recipe, self.layer)
        online.load(block, self.layer, qparams)
        return block

    def add_gram(self, gram: Tensor | None, x: Tensor) -> Tensor:
        """`gram`, or 0, plus XᵀX (float32, its lower half) of a site's inputs x [batch, tokens, channels]."""
        rows = x.flatten(0, -2).float()
        if gram is None:
            gram = rows.new_zeros(rows.shape[1], rows.shape[1])
        with self.device.gram_precision(self.stored):
            add_gram(gram, rows)
        return gram

    def add_held_out(self, gram: Tensor | None, x: Tensor, first: int) -> Tensor | None:
        """As `add_gram`, of those of sequences `first`, ... by which a clip is chosen."""
        chosen_by = x[max(0, self.choosing - first) :]
        return self.add_gram(gram, chosen_by) if len(chosen_by) else gram

    def attention_received(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The attention that each token receives [sequences, tokens], 1 in the mean, of states that enter a block."""
        attention: Any = block.get_submodule(ATTENTION)
        found = torch.empty(hidden.shape[:2])

        def watch(*asked: Any) -> None:
            found[part] = causal.received(*asked).cpu()
            raise SeenEnough

        attention.attention_watch = watch
        for part in batches(*hidden.shape[:2]):
            with suppress(SeenEnough):
                self.forward(block, hidden[part])
        del attention.attention_watch
        return found / found.mean()

    def grams(
        self, inputs: Iterable[Tensor], exact: Iterable[Tensor] | None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """XᵀX and, given the float model's inputs F `exact`, Xᵀ(F - X) of all of a site's inputs X [batch, tokens, channels].

        Then XᵀX of the sequences by which a clip is chosen, where one is. `weights` [sequences, tokens]: how much each token
        counts in all three.
        """
        if weights is not None:  # what is scaled by their roots is no longer what bfloat16 holds
            of_floats = _weighted(exact, weights) if exact is not None else None
            return replace(self, stored=[]).grams(_weighted(inputs, weights), of_floats)
        gram, cross, held_out, seen = None, None, None, 0
        for x, of_float in zip(inputs, exact if exact is not None else repeat(None), strict=exact is not None):
            gram, held_out = self.add_gram(gram, x), self.add_held_out(held_out, x, seen)
            seen += len(x)
            if of_float is not None:
                rows = x.flatten(0, -2).float()
                cross = torch.zeros_like(gram) if cross is None else cross
                with self.device.gram_precision(self.stored):
                    cross.addmm_(rows.T, of_float.flatten(0, -2).float() - rows)
        assert gram is not None
        return mirror(gram), cross, mirror(held_out) if held_out is not None else None

    def lost(self, qparams: Mapping[str, Tensor], states: Tensor, targets: Tensor) -> float:
        """Σ |block'(x) - y|² over `states` x and `targets` y [sequences, tokens, hidden], all quantizers on."""
        block, total = self.quantized_block(qparams), 0.0
        for part in batches(*states.shape[:2]):
            total += (self.forward(block, states[part]).float() - targets[part].float()).square().sum(dtype=torch.float64).item()
        return total


def _weighted(inputs: Iterable[Tensor], weights: Tensor) -> Iterator[Tensor]:
    """Inputs [batch, tokens, channels], whose tokens count as `weights` [sequences, tokens] say in sums of squares; float32."""
    seen = 0
    for x in inputs:
        yield x.float() * weights[seen : seen + len(x)].to(x.device).sqrt().unsqueeze(-1)
        seen += len(x)
