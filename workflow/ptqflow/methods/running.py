"""A decoder block under a recipe: how states run through it, and what is gathered of its inputs."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from ptqflow.devices.device import Device
from ptqflow.methods.rounding import HeldOut
from ptqflow.modeling import causal, online
from ptqflow.modeling.anatomy import ATTENTION, Architecture
from ptqflow.modeling.blocks import Blocks, Positions, SeenEnough, batches, forward
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

    @cached_property
    def positions(self) -> Positions:
        """Those of a sequence from its beginning on."""
        return self.blocks.positions(self.tokens)

    def forward(self, block: nn.Module, states: Tensor, starts: Sequence[int] | None = None) -> Tensor:
        """What a block makes of `states` [batch, tokens, hidden], which may be elsewhere; `starts`: their first positions."""
        positions = self.positions if starts is None else self.blocks.positions(self.tokens, starts)
        with self.precision():
            output = forward(block, states.to(self.blocks.device), positions)
        return output.to(states.device)

    def quantized_block(self, qparams: Mapping[str, Tensor]) -> nn.Module:
        """The block as `qparams` have it, quantizing activations and cache; weights that are not in there are float."""
        block = self.blocks.build(
            self.layer, {n: deployed(n, t, qparams, self.architecture) for n, t in self.tensors.items()}, self.dtype
        )
        quantize_block(block, self.recipe, self.layer)
        online.load(block, self.layer, qparams)
        return block

    def add_gram(self, gram: Tensor | None, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """`gram`, or 0, plus XᵀX (float32, its lower half) of a site's inputs x [batch, tokens, channels].

        `weights` [batch, tokens]: how much each token counts.
        """
        rows = _counted(x, weights)
        if gram is None:
            gram = rows.new_zeros(rows.shape[1], rows.shape[1])
        # What is scaled by roots of weights is no longer what bfloat16 holds.
        of_bfloat16 = weights is None and (x.dtype == torch.bfloat16 or self.device.bfloat16_products(self.stored))
        with self.device.gram_precision(of_bfloat16):
            add_gram(gram, rows)
        return gram

    def add_held_out(self, held_out: HeldOut | None, x: Tensor, first: int, received: Tensor | None = None) -> HeldOut | None:
        """As `add_gram`, of those of sequences `first`, ... by which a clip is chosen.

        `received` [batch, tokens]: the attention that each token receives, by which they count in the choice.
        """
        part = slice(max(0, self.choosing - first), None)
        if not len(x[part]):
            return held_out
        received = received[part] if received is not None else None
        weights = self._weights(received)
        gram, attended = (held_out.gram, held_out.attended) if held_out is not None else (None, None)
        gram = self.add_gram(gram, x[part], weights)
        return HeldOut(gram, self.add_gram(attended, x[part], received) if received is not weights else None)

    def _weights(self, received: Tensor | None) -> Tensor | None:
        """By which tokens count where weights are rounded: the attention that they receive, or None."""
        return received if self.recipe.rounding.weighs_by_attention else None

    def chooses(self, hidden: Tensor) -> bool:
        """Whether some of the sequences are those by which a clip is chosen."""
        return self.choosing < len(hidden)

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
        self, inputs: Iterable[Tensor], exact: Iterable[Tensor] | None, attended: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, HeldOut | None]:
        """XᵀX and, given the float model's inputs F `exact`, Xᵀ(F - X) of all of a site's inputs X [batch, tokens, channels].

        Then what a clip is chosen by, where one is. `attended` [sequences, tokens]: the attention that tokens receive, by which
        they count where a clip is chosen, and in all of it if the rounding weighs by attention.
        """
        gram = cross = held_out = None
        seen = 0
        for x, of_float in zip(inputs, exact if exact is not None else repeat(None), strict=exact is not None):
            received = attended[seen : seen + len(x)] if attended is not None else None
            weights = self._weights(received)
            gram, held_out = self.add_gram(gram, x, weights), self.add_held_out(held_out, x, seen, received)
            seen += len(x)
            if of_float is not None:
                rows = _counted(x, weights)
                cross = torch.zeros_like(gram) if cross is None else cross
                with self.device.gram_precision(weights is None and self.device.bfloat16_products(self.stored)):
                    cross.addmm_(rows.T, _counted(of_float, weights) - rows)
        assert gram is not None
        return mirror(gram), cross, held_out.each(mirror) if held_out is not None else None

    def lost(self, qparams: Mapping[str, Tensor], states: Tensor, targets: Tensor) -> float:
        """Σ |block'(x) - y|² over `states` x and `targets` y [sequences, tokens, hidden], all quantizers on."""
        block, total = self.quantized_block(qparams), 0.0
        for part in batches(*states.shape[:2]):
            total += (self.forward(block, states[part]).float() - targets[part].float()).square().sum(dtype=torch.float64).item()
        return total


def _counted(x: Tensor, weights: Tensor | None) -> Tensor:
    """Rows (float32) of inputs x [batch, tokens, channels] that count as `weights` [batch, tokens] say in sums of squares."""
    rows = x.flatten(0, -2).float()
    return rows if weights is None else rows * weights.to(x.device).flatten().sqrt().unsqueeze(1)
