"""Gradients of every operation that learned transforms are trained through.

Measured against central differences of the same function in float64 on the CPU, along fixed directions; where a
function has no true gradient (rounding, straight-through), against the same code on the CPU. Where a gradient is lost the
error is 1.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import functional

from ptqflow.numerics.convention import Grid
from ptqflow.numerics.inverse import inverse
from ptqflow.numerics.straight_through import clamp_rows, fake_quantize_clipped, quantize_dequantize
from ptqflow.selftest.probe import Finding, Probe, numbers, relative_error
from ptqflow.transforms import kronecker

Function = Callable[..., Tensor]

_N = 6
_STEP = 1e-3
_LIMIT = 1e-4  # float32 leaves about 1e-7
_MATRIX = torch.eye(_N) + 0.1 * numbers(_N, _N)
_ROWS = numbers(4, _N, seed=1)
_ONES = torch.ones(_N) + 0.1 * numbers(_N, seed=2).abs()


def _cayley(free: Tensor) -> Tensor:
    skew, identity = free - free.mT, torch.eye(len(free)).to(free)
    return (identity - skew) @ inverse(identity + skew)


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def _attention(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.softmax(x @ matrix @ x.mT / _N**0.5, -1) @ x


def _fused_attention(x: Tensor, matrix: Tensor) -> Tensor:
    query, key = (x @ matrix)[None, None], x[None, None]
    return functional.scaled_dot_product_attention(query, key, key, is_causal=True)


def _rotary(x: Tensor, angles: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


def _shared_heads(key: Tensor, query: Tensor) -> Tensor:
    return query @ key[:, None].expand(-1, 3, -1).reshape(-1, key.shape[-1]).mT


def _clipped(weight: Tensor, logit: Tensor) -> Tensor:
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    return clamp_rows(weight, low * logit.sigmoid(), high * logit.sigmoid())


# Smooth functions, and the inputs they are tried at: all that `methods.flat_block` differentiates through.
SMOOTH: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "inverse": (inverse, (_MATRIX,)),
    "Cayley rotation": (_cayley, (0.1 * _MATRIX,)),
    "Kronecker transform": (lambda x, a, b: kronecker.apply(x, a, b), (_ROWS, _MATRIX[None, :2, :2], _MATRIX[None, :3, :3])),
    "linear": (functional.linear, (_ROWS, _MATRIX)),
    "bounded spread": (lambda x: (4.6 * x.tanh()).exp(), (0.1 * _MATRIX[:, :1],)),
    "channel scale": (lambda x, log_scale: x * log_scale.exp(), (_ROWS, 0.1 * _ONES)),
    "quotient": (lambda x, log_scale: x / log_scale.exp(), (_ROWS, 0.1 * _ONES)),
    "clipped weights": (_clipped, (_ROWS, torch.ones(4, 1))),
    "clipped range": (lambda x, logit: x.amax(-1, keepdim=True) * logit.sigmoid(), (_ROWS, torch.full((4, 1), 4.0))),
    "RMS norm": (_rms_norm, (_ROWS, _ONES)),
    "rotary embedding": (_rotary, (_ROWS, _ROWS.flip(0))),
    "shared heads": (_shared_heads, (_ROWS[:2], _ROWS)),
    "gated linear unit": (lambda x, y: functional.silu(x) * y, (_ROWS, _ROWS.flip(0))),
    "attention": (_attention, (_ROWS, _MATRIX)),
    "fused attention": (_fused_attention, (_ROWS, _MATRIX)),
    "mean square": (lambda x, y: (x - y).square().mean(), (_ROWS, _ROWS.flip(0))),
}
# Straight-through gradients of the grids.
ROUNDING: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "activations": (lambda x, clip: fake_quantize_clipped(x, 4, False, clip), (_ROWS, torch.full((1, 2), 0.9))),
    "weights": (lambda x, s: quantize_dequantize(x, s, torch.zeros(1).to(x), Grid(4, True)), (_ROWS, 0.3 * torch.ones(4, 1))),
}
# How others invert: no recipe here relies on it, and it is where gradients were lost.
INVERSES: dict[str, Function] = {
    "Tensor.inverse": lambda x: x.inverse(),
    "torch.inverse": torch.inverse,
    "Tensor.double().inverse()": lambda x: x.double().inverse().to(x.dtype),
    "torch.linalg.inv": torch.linalg.inv,
}


def autograd(function: Function, inputs: tuple[Tensor, ...], device: torch.device) -> list[Tensor]:
    """Gradients of a fixed weighted sum of the result, by input, on the CPU; zeros where none arrives."""
    leaves = [x.to(device).requires_grad_(True) for x in inputs]
    with torch.enable_grad():
        result = function(*leaves)
        loss = (result * numbers(*result.shape, seed=3).to(result)).sum()
    if not loss.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g.cpu() for g, x in zip(found, inputs, strict=True)]


def differences(function: Function, inputs: tuple[Tensor, ...], directions: list[Tensor]) -> Tensor:
    """Derivatives of the same sum along `directions` (a sum over inputs each), in float64 on the CPU; error of order step⁴."""
    exact = [x.double() for x in inputs]

    def value(step: float, index: int) -> Tensor:
        moved = [x + step * direction[index].double() for x, direction in zip(exact, directions, strict=True)]
        result = function(*moved)
        return (result * numbers(*result.shape, seed=3).double()).sum()

    def central(step: float, index: int) -> Tensor:
        return (value(step, index) - value(-step, index)) / (2 * step)

    return torch.stack([(4 * central(_STEP / 2, i) - central(_STEP, i)) / 3 for i in range(len(directions[0]))])


def smooth_error(function: Function, inputs: tuple[Tensor, ...], device: torch.device) -> Finding:
    """Relative error of a device's gradient against central differences, over 8 random directions."""
    directions = [numbers(8, *x.shape, seed=4 + i) for i, x in enumerate(inputs)]
    gradients = autograd(function, inputs, device)
    found = sum((d.double() * g.double()).flatten(1).sum(1) for d, g in zip(directions, gradients, strict=True))
    assert isinstance(found, Tensor)
    return _said(relative_error(found, differences(function, inputs, directions)), gradients)


def rounding_error(function: Function, inputs: tuple[Tensor, ...], device: torch.device) -> Finding:
    """Relative error of a device's straight-through gradients against the CPU's."""
    gradients, exact = autograd(function, inputs, device), autograd(function, inputs, torch.device("cpu"))
    errors = [relative_error(g, e) for g, e in zip(gradients, exact, strict=True)]
    return _said(max(errors), gradients)


def wired(function: Function, inputs: tuple[Tensor, ...], device: torch.device) -> Finding:
    """To how many of its inputs the result has no gradient; asks for no number."""
    leaves = [x.to(device).requires_grad_(True) for x in inputs]
    with torch.enable_grad():
        result = function(*leaves)  # keeps its graph alive
    reached = _leaves_behind(result.grad_fn)
    lost = sum(id(leaf) not in reached for leaf in leaves)
    return Finding(float(lost), 0.0, "no gradient, no warning" if lost else "")


def _leaves_behind(end: Node | None) -> set[int]:
    """ids of the leaves that a backward pass from `end` would reach."""
    seen, todo = set(), [end]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
    return {id(getattr(node, "variable", None)) for node in seen}


def _said(error: float, gradients: list[Tensor]) -> Finding:
    return Finding(error, _LIMIT, "" if all(bool(g.any()) for g in gradients) else "the gradient is lost")


def _probe(name: str, error: Callable[..., Finding], tried: tuple[Function, tuple[Tensor, ...]]) -> Probe:
    return Probe(name, partial(error, *tried), "training", partial(wired, *tried))


PROBES = [
    *(_probe(f"gradient of {name}", smooth_error, tried) for name, tried in SMOOTH.items()),
    *(_probe(f"straight-through gradient of {name}", rounding_error, tried) for name, tried in ROUNDING.items()),
    *(
        Probe(f"{name} has a gradient", partial(wired, function, (_MATRIX,)), wiring=partial(wired, function, (_MATRIX,)))
        for name, function in INVERSES.items()
    ),
]
