"""What tokenizer libraries raise, in one sentence: a tokenizer.json can be read and yet fail on a text."""

from collections.abc import Iterator
from contextlib import contextmanager

from ptqflow.errors import ConfigError, PtqflowError
from ptqflow.system import refused


@contextmanager
def tokenizing(where: str) -> Iterator[None]:
    """Whatever a tokenizer raises becomes a ConfigError of `where`; what the system refuses, as memory, stays what it is."""
    try:
        yield
    except (PtqflowError, OSError, MemoryError):
        raise
    except Exception as error:
        if (refusal := refused(error)) is not None:
            raise refusal from error
        raise ConfigError(f"{where}: the model's tokenizer fails on its text ({error}); correct its tokenizer.json") from None
