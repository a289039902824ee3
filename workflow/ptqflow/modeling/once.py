"""Work on a tensor that several modules read one after the other (q, k and v; gate and up), done once."""

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor

Result = TypeVar("Result")


class Once(Generic[Result]):
    """The last result of a function of a tensor, held no longer than the tensor itself, which nobody changes in place."""

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[Tensor], tuple[object, ...], Result] | None = None

    def __call__(self, x: Tensor, function: Callable[[Tensor], Result], *given: object) -> Result:
        """`function(x)`, or what it was for this very tensor and the very same objects `given`, on which it depends, too."""
        if self._last is not None:
            last, before, result = self._last
            if last() is x and all(a is b for a, b in zip(before, given, strict=True)):
                return result
        result = function(x)
        self._last = (weakref.ref(x, self._forget), given, result)
        return result

    def _forget(self, gone: "weakref.ref[Tensor]") -> None:
        if self._last is not None and self._last[0] is gone:
            self._last = None
