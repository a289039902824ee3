"""What the proofs of all engines share: their command line, their rows, and how far logits are from those of the fake form.

Needs torch and safetensors alone. Engines that give log-probabilities give logits up to a constant per position, so each
position's mean is taken off first.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

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


class NotRun(Exception):
    """The engine cannot run a checkpoint on this machine: known before it is tried."""


class Attempt:
    """What an engine makes of one checkpoint, timed from here on. Its `row` is complete after a `with` block.

    An error within the block ends it, and is the message of a row that says nothing else (`NotRun`: but that it was not run).
    """

    def __init__(self, work: Path, recipe: str, form: str, folder: Path, engine: str, dtype: str) -> None:
        self._work, self._folder = work, folder
        self._head = {"form": form, "recipe": recipe, "engine": engine, "dtype": dtype}
        self._start = time.perf_counter()
        self.row: dict[str, Any] = {}

    def loaded(self) -> None:
        """Note how long loading took: until now."""
        self.row["load_seconds"] = time.perf_counter() - self._start

    def compare(self, logits: Callable[[Tensor], Tensor]) -> None:
        """Ask for what follows each token but the last of the prompts, as in `differences`, and note how far it is off."""
        tokens, expected = reference(self._work, self._head["recipe"], self._head["dtype"])
        self.row |= differences(logits(tokens), expected, tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None:
            self.row = {**self._head, "loaded": True, "message": "", "bytes": bytes_of(self._folder), **self.row}
        elif isinstance(error, NotRun):
            self.row = {**self._head, "loaded": False, "not_run": True, "message": f"not run: {error}"}
        else:
            self.row = {**self._head, "loaded": False, "message": said(error)}
        return isinstance(error, Exception)


def said(error: BaseException) -> str:
    """An error in one line, shortened."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:600]


def arguments(description: str | None) -> argparse.Namespace:
    """The command line of every proof: `--work`, the folder that `check.py` gathers, and `--output`, a JSON file of rows."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()
