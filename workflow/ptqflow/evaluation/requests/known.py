"""Whether a model knows the tokens that its tokenizer gives: an engine's embedding has no row for others."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ptqflow.errors import ConfigError

if TYPE_CHECKING:
    from ptqflow.engines.protocol import Engine


def refuse_unknown(task: str, tokens: Iterable[int], engine: "Engine") -> None:
    """Raise ConfigError for a token beyond the model's vocabulary."""
    if (largest := max(tokens, default=0)) >= engine.vocab_size:
        raise ConfigError(
            f"task {task}: the tokenizer gives token {largest}, beyond the {engine.vocab_size} rows of the model's embedding; "
            "use the model's own tokenizer"
        )
