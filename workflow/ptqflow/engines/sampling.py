"""Sampling that does not depend on who else is in the batch.

Gumbel-max: if g_i = -log(e_i) with independent e_i ~ Exp(1), argmax(log p_i + g_i) is an exact draw from p. Each row draws its
noise from its own generator, so that a row's tokens depend on its own seed alone; and two models given the same seed share the
noise, which makes their comparison paired (common random numbers).
"""

from collections.abc import Sequence

import torch
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ptqflow.engines.protocol import Sampling


def with_noise(scores: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Scores [rows, vocabulary] plus Gumbel noise, each row's from its own generator: the argmax is a sample of softmax(scores).

    Noise is drawn on the CPU in float64: the same on every platform, and fine enough for a vocabulary of 10^5 (in float32,
    Exp(1) is zero once in 2^24 draws, which would elect tokens of probability 10^-7). Banned tokens (-inf) stay banned.
    """
    exponential = torch.empty(scores.shape, dtype=torch.float64)
    for row, generator in zip(exponential, generators, strict=True):
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
    """Chooses the next token of each row: greedily, or by Gumbel-max."""

    def __init__(self, sampling: Sampling) -> None:
        self.chain = warpers(sampling) if sampling.temperature > 0 else None

    def __call__(self, logits: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Token ids [rows] from logits [rows, vocabulary] and a generator per row; float32 whatever the logits' dtype."""
        scores = logits.float()
        if self.chain is not None:
            scores = with_noise(self.chain(None, scores), generators)  # type: ignore[arg-type]  # none of ours reads the tokens so far
        return scores.argmax(dim=-1)
