"""Names for the parts of a linear's work, which a profiler finds again: what of a quantized model's time goes where."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch.profiler import record_function

Part = Literal["transform", "quantize", "product", "scale", "cache"]
PREFIX = "ptqflow::"


def scope(part: Part) -> AbstractContextManager[None]:
    """A context that a running profiler records as `part`; without one it does nothing, in less than a microsecond."""
    return record_function(PREFIX + part) if torch.autograd._profiler_enabled() else nullcontext()
