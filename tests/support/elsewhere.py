"""A device that is not the CPU, where there is none: torch's `meta`, which has shapes and no numbers.

What the host reads of it is made up; what takes tensors of both devices, as no GPU or NPU would, raises.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ptqflow.devices.device import Device
from torch import Tensor
from torch.fx.experimental import _config
from torch.overrides import TorchFunctionMode

_READ: dict[Any, Callable[[Any], Any]] = {
    Tensor.item: lambda x: x,
    Tensor.__float__: float,
    Tensor.__int__: int,
    Tensor.__bool__: bool,
    Tensor.__index__: int,
}
# May take both: copies from one to the other, a tensor like another one, parameters of a module that moves.
_BOTH = {Tensor.to, Tensor.copy_, torch._has_compatible_shallow_copy_type}


@dataclass(frozen=True)
class Elsewhere(Device):
    """It, with memory enough."""

    @property
    def module(self) -> Any:
        """What the stages ask of `torch.cuda`."""
        return SimpleNamespace(
            mem_get_info=lambda: (1 << 40, 1 << 40), reset_peak_memory_stats=lambda: None, max_memory_allocated=lambda: 0
        )


ELSEWHERE = Elsewhere("gpu", torch.device("meta"), torch.bfloat16)


class Apart(TorchFunctionMode):
    """Reads made-up numbers of the device (floats 0.5, integers 1, statuses of decompositions and flags 0), and lets none mix."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """As torch calls it."""
        kwargs = kwargs or {}
        x = args[0] if args else None
        if isinstance(x, Tensor) and x.is_meta:
            if func in _READ:
                return _READ[func](_number(x.dtype))
            if func is Tensor.tolist:
                return torch.zeros(x.shape, dtype=x.dtype).tolist()
            if func is torch.equal:
                return True
            if func is Tensor.cpu or (func is Tensor.to and _wanted(args[1:], kwargs) == "cpu"):
                kinds = [given for given in (*args[1:], *kwargs.values()) if isinstance(given, torch.dtype)]
                return torch.full(x.shape, _number(x.dtype), dtype=(kinds or [x.dtype])[0])
        if func not in _BOTH and not getattr(func, "__name__", "").startswith(("new_", "empty_like", "full_like", "zeros_like")):
            _refuse_both(func, args, kwargs)
        return func(*args, **kwargs)


def _number(dtype: torch.dtype) -> Any:
    return 0.5 if dtype.is_floating_point else 1 if dtype == torch.int64 else 0


def _wanted(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    places = [given for given in (*args, *kwargs.values()) if isinstance(given, torch.device | str | Tensor)]
    return None if not places else places[0].device.type if isinstance(places[0], Tensor) else torch.device(places[0]).type


def _refuse_both(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Raises where tensors with dimensions lie on both; an index of the CPU's is taken everywhere, and what a slice is set to is
    copied.
    """
    given = [*_tensors(args), *_tensors(kwargs.values())]
    if func in (Tensor.__getitem__, Tensor.__setitem__):
        index = list(_tensors(args[1:2]))
        given = [args[0], *(x for x in index if args[0].is_cpu or not x.is_cpu), *(_tensors(args[2:]) if index else ())]
    kinds = {x.device.type for x in given if x.dim()}
    assert len(kinds) < 2, f"{getattr(func, '__name__', func)} of tensors on {' and '.join(sorted(kinds))}"


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """The device; within, nothing mixes."""
    enabled = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind="cpu": kind != "meta" and enabled(kind))
    with _config.patch(meta_nonzero_assume_all_nonzero=True), Apart():
        yield ELSEWHERE
