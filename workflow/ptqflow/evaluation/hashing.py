"""Stable hashes of evaluation: of a prompt's tokens, and the random seed of one completion."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any


def tokens_sha256(tokens: Sequence[int]) -> str:
    """Hexadecimal sha256 of token ids as a JSON list."""
    return hashlib.sha256(json.dumps(list(tokens), separators=(",", ":")).encode()).hexdigest()


def requests_sha256(requests: Sequence[Any]) -> str:
    """Hexadecimal sha256 of all that a task asks: token ids and seeds, as JSON."""
    return hashlib.sha256(json.dumps(requests, separators=(",", ":")).encode()).hexdigest()


def completion_seed(seed: int, task: str, item: str, completion: int) -> int:
    """A 63-bit seed of one completion, from the run seed, the task's name, the item's id and the completion's index.

    Equal seeds for all items would correlate their noise; seeds by position would change with batch, order and limit.
    """
    key = json.dumps([seed, task, item, completion]).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) >> 1
