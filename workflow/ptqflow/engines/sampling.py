"""Sampling that does not depend on who else is in the batch.

Gumbel-max: if g_i = -log(e_i) with independent e_i ~ Exp(1), argmax(log p_i + g_i) is an exact draw from p. Each row draws its
noise from its own generator, so that a row's tokens depend on its own seed alone; and two models given the same seed share the
noise, which makes their comparison paired (common random numbers).
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ptqflow.engines.protocol import Sampling


class GumbelNoise(LogitsProcessor):
    """Add Gumbel noise to scores [rows, vocabulary]; the argmax of the result is a sample of softmax(scores).

    Noise is drawn on the CPU in float64: the same on every platform, and fine enough for a vocabulary of 10^5 (in float32,
    Exp(1) is zero once in 2^24 draws, which would elect tokens of probability 10^-7).
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        self.generators = [self.generators[row] for row in rows]

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        """Scores plus noise, float32; banned tokens (-inf) stay banned."""
        exponential = torch.empty(scores.shape, dtype=torch.float64)
        for row, generator in zip(exponential, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores - exponential.log().to(scores.device, scores.dtype)


def warpers(sampling: Sampling) -> LogitsProcessorList:
    """Temperature, then top-k, then top-p, as in transformers and vLLM."""
    chain = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k > 0:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p))
    return chain


class Sampler:
    """Chooses the next token of each row: greedily, or by Gumbel-max with one seed per row."""

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        self.noise = GumbelNoise(seeds) if sampling.temperature > 0 else None
        self.chain = LogitsProcessorList([*warpers(sampling), self.noise]) if self.noise else LogitsProcessorList()

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        if self.noise:
            self.noise.select(rows)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Token ids [rows] from logits [rows, vocabulary]; float32 whatever the logits' dtype."""
        scores: torch.Tensor = self.chain(None, logits.float())  # type: ignore[arg-type]  # none of ours reads the tokens so far
        return scores.argmax(dim=-1)
