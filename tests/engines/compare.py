"""How far an engine's logits are from those of the fake form in transformers. Needs torch and safetensors alone.

Engines that give log-probabilities give logits up to a constant per position, so each position's mean is taken off first.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def reference(work: Path, recipe: str, dtype: str) -> tuple[Tensor, Tensor]:
    """Prompts [n, tokens] and the logits [n, tokens, vocabulary] of the fake form (`baseline`: of the float model)."""
    tensors = load_file(work / "references" / f"{recipe}.safetensors")
    return tensors["tokens"], tensors[dtype]


def differences(logits: Tensor, expected: Tensor, tokens: Tensor) -> dict[str, float]:
    """Largest and mean difference of logits; mean difference of log p(next token); both perplexities.

    `logits` [n, tokens - 1, vocabulary] predict the tokens after the first; `expected` may have one position more.
    """
    expected = expected[:, : logits.shape[1]]
    logits, expected = logits.float(), expected.float()
    change = ((logits - logits.mean(-1, keepdim=True)) - (expected - expected.mean(-1, keepdim=True))).abs()
    found, wanted = _log_probabilities(logits, tokens), _log_probabilities(expected, tokens)
    return {
        "max_logit_difference": change.max().item(),
        "mean_logit_difference": change.mean().item(),
        "mean_logprob_difference": (found - wanted).abs().mean().item(),
        "perplexity": found.neg().mean().exp().item(),
        "reference_perplexity": wanted.neg().mean().exp().item(),
    }


def _log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    return torch.log_softmax(logits, -1).gather(-1, tokens[:, 1 : 1 + logits.shape[1], None]).squeeze(-1)


def bytes_of(folder: Path) -> int:
    """Bytes of the weight files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def checkpoints(work: Path, forms: tuple[str, ...]) -> list[tuple[str, str, Path]]:
    """(recipe, form, folder) of every checkpoint of these forms in `work`."""
    found = [(*path.name.rsplit(".", 1), path) for path in sorted(work.iterdir()) if "." in path.name and path.is_dir()]
    return [(recipe, form, path) for recipe, form, path in found if form in forms]


def failed(recipe: str, form: str, engine: str, dtype: str, error: Exception) -> dict[str, Any]:
    """The row of a checkpoint that did not load or run."""
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return {"form": form, "recipe": recipe, "engine": engine, "dtype": dtype, "loaded": False, "message": message[:600]}
