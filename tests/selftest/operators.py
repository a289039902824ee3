"""Whether torch_npu's operators take the calls of `ptqflow.devices.npu`: their registered schemas and Meta kernels.

Where there is no Meta kernel, the device's own, over a stand-in. Shapes and dtypes of results are held against the reference
kernels on the CPU. No number is asked: over a stand-in there is none.
"""

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import npu_kernels
import torch
from ptqflow.devices import npu
from torch import Tensor

_BF16, _F16, _F32, _I8, _I32 = torch.bfloat16, torch.float16, torch.float32, torch.int8, torch.int32
Make = Callable[..., Tensor]  # a tensor of zeros from its sides and dtype


def _calls(make: Make) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Name of the case, its operator and the call: 6 rows of 128 inputs, 32 outputs, words of 8 integers."""
    for name, dtype in (("bfloat16", _BF16), ("float16", _F16)):
        rows = make(6, 128, dtype=dtype)
        yield f"8 bits, {name}", "npu_dynamic_quant", lambda rows=rows: npu.Fused.quantized(rows, 8)
        yield f"4 bits, {name}", "npu_dynamic_quant", lambda rows=rows: npu.Fused.quantized(rows, 4)
        sides = make(8, 8, dtype=_F32), make(16, 16, dtype=_F32)
        yield f"4 bits, {name}", "npu_kronecker_quant", lambda rows=rows, sides=sides: npu.Fused.transformed(rows, *sides, 0.9)
        for bits, integers, weight in (
            (8, make(6, 128, dtype=_I8), make(32, 128, dtype=_I8)),
            (4, make(6, 16, dtype=_I32), make(32, 16, dtype=_I32)),
        ):
            for bias in (None, make(32, dtype=_F32)):
                parts = (integers, weight, make(32, dtype=_F32), make(6, dtype=_F32), bias, dtype)
                with_bias = "" if bias is None else " with bias"
                yield f"{bits} bits{with_bias}, {name}", "npu_quant_matmul", lambda parts=parts: npu.Fused.multiply(*parts)
        packed = make(128, 4, dtype=_I32)
        held_as = (("4 bits in groups", packed, 4), ("4 bits", packed, 1), ("8 bits", make(128, 32, dtype=_I8), 1))
        for case, held, groups in held_as:
            weight_only = npu.WeightOnly.__new__(npu.WeightOnly)
            weight_only.held, weight_only.group = held, 32 if groups > 1 else 0
            weight_only.scale, weight_only.offset = make(groups, 32, dtype=dtype), make(groups, 32, dtype=dtype)
            yield f"{case}, {name}", weight_only.kernel, lambda held=weight_only, rows=rows: held.multiply(rows)
            symmetric = copy(weight_only)
            symmetric.offset = None
            yield (
                f"{case}, symmetric, one row, {name}",
                symmetric.kernel,
                lambda held=symmetric, rows=rows: held.multiply(rows[:1]),
            )
    rows, one = make(6, 128, dtype=_BF16), make(1, dtype=_F32) + 1
    yield "static, 8 bits", "npu_quantize", lambda: npu.Fused.quantized_static(rows, one)
    yield "sums in int32", "npu_quant_matmul", lambda: npu.int8_product(make(6, 128, dtype=_I8), make(32, 128, dtype=_I8))


def _packings(make: Make) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """What has no Meta kernel in any release: asked of the device's own, which checks shapes before it computes."""
    for name, sides in (("a weight beside 4-bit inputs", (32, 128)), ("a weight alone", (128, 32))):
        held = make(*sides, dtype=_I8)
        yield name, "npu_convert_weight_to_int4pack", lambda held=held: npu.Fused.held(held, 4)


def _outcome(call: Callable[[], Any]) -> str:
    try:
        found = call()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {str(error).partition(' [ERROR]')[0]}"
    parts = found if isinstance(found, tuple) else (found,)
    return "; ".join(f"{str(part.dtype).removeprefix('torch.')} {list(part.shape)}" for part in parts)


def asked() -> list[dict[str, Any]]:
    """One row per call and per schema, of the torch_npu that is imported: name, whether it is right, and what is wrong."""

    def zeros(device: str) -> Make:
        return lambda *sides, dtype: torch.zeros(sides, dtype=dtype, device=device)

    npu_kernels.register()
    found = [
        (f"{operator}: {name}", _outcome(call)) for name, operator, call in (*_calls(zeros("meta")), *_packings(zeros("npu")))
    ]
    expected = [_outcome(call) for _, _, call in (*_calls(zeros("cpu")), *_packings(zeros("cpu")))]
    rows = [
        {"operator": name, "ok": said == right, "detail": "" if said == right else f"{said}, not {right}"}
        for (name, said), right in zip(found, expected, strict=True)
    ]
    return rows + [_schema(name, schema) for name, schema in npu_kernels.SCHEMAS.items()]


def _schema(name: str, known: str) -> dict[str, Any]:
    """A registered schema's arguments are those of the newest, or the first of them."""
    registered = getattr(torch.ops.npu, name).default._schema
    newest = [argument.name for argument in torch._C.parse_schema(f"npu::{name}{known}").arguments]
    found = [argument.name for argument in registered.arguments]
    right = found == newest or (set(found) < set(newest) and found == [part for part in newest if part in found])
    return {"operator": f"{name}: arguments", "ok": right, "detail": "" if right else str(registered)}
