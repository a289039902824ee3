"""torch_npu's operators that multiply integers on an Ascend NPU, behind the same contract as other devices' kernels.

What they compute is written from CANN's documentation and golden tests (`tests/support/npu_kernels.py` is it in PyTorch); that
their schemas and Meta kernels take these calls was asked of real wheels (`make check-devices`). Nothing here ran on an NPU.

A token's scale is max|x| / 127 or 7, integers are rounded half to even, sums are int32 and exact, results are scaled in float32.
4-bit integers travel as words of 8, the first in the lowest bits; `npu_kronecker_quant` rounds what it transformed to float16.
"""

from typing import Any

import torch
from torch import Tensor

from ptqflow.devices.case import Case

_WORD = 8  # 4-bit integers
_LARGEST = 65535  # rows or columns of a matrix
_SIDES = 128  # of a transform, on every CANN
_ROWS_AT_ONCE = 32768  # that npu_kronecker_quant takes (vllm-ascend cuts there, too)
_GROUP = 32  # columns per scale of a weight are multiples of it
_FLOATS = (torch.float16, torch.bfloat16)
WEIGHT_ONLY = {"npu"}  # types of devices that have `WeightOnly`


class Fused:
    """Quantization of inputs, and products whose results are scaled, each in one kernel."""

    name = "npu_quant_matmul"

    @staticmethod
    def takes(case: Case) -> bool:
        """Whether there are such kernels; for what is left there are exact products, scaled step by step."""
        plain = case.symmetric and not case.shifted and case.groups == 1
        if not plain or case.dtype not in _FLOATS or max(case.out, case.columns) > _LARGEST:
            return False
        if case.input_bits == 8:
            return case.sides is None and not case.clipped
        if (case.weight_bits, case.input_bits) != (4, 4) or case.static or case.columns % _WORD:
            return False
        if case.sides is None:
            return not case.clipped
        return case.sides[1] % _WORD == 0 and max(case.sides) <= _SIDES

    @staticmethod
    def quantized(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Integers int8 [rows, in] (4 bits: words int32 [rows, in / 8]) and scales float32 [rows]."""
        found: tuple[Tensor, Tensor] = _operators().npu_dynamic_quant(rows, dst_type=torch.int8 if bits == 8 else torch.quint4x2)
        return found

    @staticmethod
    def quantized_static(rows: Tensor, scale: Tensor) -> Tensor:
        """Integers int8 by one scale float32 [1]."""
        operators, zero = _operators(), torch.zeros_like(scale)
        found: Tensor = operators.npu_quantize(rows.float(), scale.reciprocal(), zero, torch.qint8, -1, False)
        return found

    @staticmethod
    def transformed(rows: Tensor, left: Tensor, right: Tensor, clip: float) -> tuple[Tensor, Tensor]:
        """4-bit integers of vec(Lᵀ X R) for X = a row as a matrix, as words int32 [rows, in / 8], and scales float32 [rows]."""
        matrices, operators = rows.reshape(-1, len(left), len(right)), _operators()
        turned, by = left.T.contiguous(), right.to(rows.dtype)
        parts = [
            operators.npu_kronecker_quant(part, turned.to(rows.dtype), by, clip, torch.int32)
            for part in matrices.split(_ROWS_AT_ONCE)
        ]
        integers, scales = (torch.cat(found) if len(found) > 1 else found[0] for found in zip(*parts, strict=True))
        return integers.flatten(1), scales

    @staticmethod
    def held(weight: Tensor, bits: int) -> Tensor:
        """A weight int8 [out, in] as `multiply` reads it beside inputs of `bits`."""
        return (
            weight.contiguous() if bits == 8 else _operators().npu_convert_weight_to_int4pack(weight.to(torch.int32).contiguous())
        )

    @staticmethod
    def multiply(
        integers: Tensor, weight: Tensor, scale: Tensor, input_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Rows times the transposed weight [rows, out]; `scale` float32 [out], `input_scale` float32 [rows]."""
        words = integers.dtype == torch.int32  # beside which a bias is documented for no result in floats
        result: Tensor = _operators().npu_quant_matmul(
            integers, weight.T, scale, pertoken_scale=input_scale, bias=None if words else bias, output_dtype=dtype
        )
        return (result + bias).to(dtype) if words and bias is not None else result  # in float32


def int8_product(rows: Tensor, weight: Tensor) -> Tensor:
    """Exact sums int32 [rows, out] of int8 [rows, in] and [out, in]."""
    one = torch.ones(len(weight), dtype=torch.float32, device=rows.device)
    result: Tensor = _operators().npu_quant_matmul(rows, weight.T, one, output_dtype=torch.int32)
    return result


class WeightOnly:
    """A weight of 4- or 8-bit integers for `npu_weight_quant_batchmatmul`: x ((q + o) s), (q + o) s rounded to the dtype of x."""

    kernel = "npu_weight_quant_batchmatmul"

    def __init__(
        self, integers: Tensor, scale: Tensor, zero_point: Tensor | None, bits: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """From signed integers int8 [out, in], scale float32 and zero point [out, groups] (None: 0); a shape that it takes."""
        groups = scale.shape[1]
        self.group = integers.shape[1] // groups if groups > 1 else 0
        self.scale = scale.T.contiguous().to(device, dtype)
        self.offset = None if zero_point is None else (-zero_point.float()).T.contiguous().to(device, dtype)
        turned = integers.T.contiguous().to(device)
        self.held = turned if bits == 8 else _operators().npu_convert_weight_to_int4pack(turned.to(torch.int32))

    @staticmethod
    def takes(out: int, columns: int, groups: int, bits: int) -> bool:
        """Whether the operator takes a weight [out, in]: groups of multiples of 32, outputs in words, sides below 65536."""
        words, grouped = bits == 8 or out % _WORD == 0, groups == 1 or columns // groups % _GROUP == 0
        return max(out, columns) <= _LARGEST and words and grouped

    @property
    def nbytes(self) -> int:
        """Bytes of the integers, scales and offsets."""
        return sum(part.nbytes for part in (self.held, self.scale, self.offset) if part is not None)

    def multiply(self, x: Tensor) -> Tensor:
        """x [rows, in] Wᵀ, in the dtype of x."""
        result: Tensor = _operators().npu_weight_quant_batchmatmul(
            x, self.held, self.scale, self.offset, antiquant_group_size=self.group
        )
        return result


def _operators() -> Any:
    return torch.ops.npu
