"""Named departures from right arithmetic, each of which some device, or version of its software, is known or suspected to have.

Numbers under a switch are those of this machine with one primitive replaced; they are no device's numbers, and never called so.
What a switch is known from: its `source`, by torch_npu's wheels, kernels' sources (op-plugin, ops-nn), documents, or inference.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ptqflow.numerics.inverse import Inverse, inverse

Product = Callable[[Tensor, Tensor], Tensor]  # of float32 matrices [..., m, k] and [..., k, n], batches alike
_LARGEST = torch.finfo(torch.float16).max
_BLOCK = 128  # of the summed dimension; a device's own is not documented


def without_gradient(matrix: Tensor) -> Tensor:
    """E0: P⁻¹ as a constant, as `Tensor.inverse` of torch_npu up to 2.6.0 (v7.1.0) returns it (no gradient, and no warning)."""
    return torch.linalg.inv_ex(matrix.detach().cpu().double())[0].to(matrix)


def in_float32(matrix: Tensor) -> Tensor:
    """E2: P⁻¹ computed in float32, its gradient too, as where float64 silently becomes float32."""
    return torch.linalg.inv_ex(matrix.float())[0].to(matrix)


def hf32(x: Tensor) -> Tensor:
    """E3: float32 `x` as a matrix unit in HF32 reads it: 11 bits of mantissa, rounded half to even."""
    bits = x.contiguous().view(torch.int32)
    rounded = (bits + 0x7FF + (bits >> 12 & 1) & ~0xFFF).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x)


def saturating_float16(x: Tensor) -> Tensor:
    """E4: `x` through float16 where overflow saturates: too large becomes the largest number, what is no number 0."""
    return x.half().nan_to_num(0.0, _LARGEST, -_LARGEST).to(x.dtype)


def scale_of_19_bits(scale: Tensor) -> Tensor:
    """E5: a static dequantization scale (float32) as `npu_trans_quant_param` keeps it: its first 19 bits, the others cut off."""
    return (scale.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def bfloat16_scale(scale: Tensor) -> Tensor:
    """E6: a scale (float32) as vllm-ascend's parameters in the model's dtype hold it."""
    return scale.bfloat16().float()


def through_bfloat16(x: Tensor) -> Tensor:
    """E7, first product: x B in the dtype of a bfloat16 model."""
    return x.bfloat16().to(x.dtype)


def through_float16(x: Tensor) -> Tensor:
    """E7, second product: Aᵀ (x B) in float16, in bfloat16 models too; above 65504 it overflows."""
    return x.half().to(x.dtype)


def add_rms_norm(total: Tensor, gamma: Tensor, epsilon: float) -> Tensor:
    """E8: RMS norm [..., n] of a residual sum in float32, rounded to bfloat16 after the sum, after 1/rms, and after γ [n]."""
    x = total.bfloat16().float()
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
    return normed.bfloat16() * gamma.bfloat16()


def blocked_product(left: Tensor, right: Tensor) -> Tensor:
    """E9: left @ right, the sum over k in float32, one block of k after the other."""
    blocks = [slice(start, start + _BLOCK) for start in range(0, left.shape[-1], _BLOCK)]
    total = left[..., blocks[0]] @ right[..., blocks[0], :]
    for block in blocks[1:]:
        total = total + left[..., block] @ right[..., block, :]
    return total


def bfloat16_weight(integers: Tensor, zero_point: Tensor, scale: Tensor) -> Tensor:
    """E10: a 4-bit weight (q - z) s as a kernel multiplies it: rounded to bfloat16."""
    return ((integers - zero_point) * scale).bfloat16().float()


def reads_quantized_cache(queries: int, keys: int) -> bool:
    """E11: whether attention of that many tokens reads quantized keys and values: only where it decodes."""
    return queries < keys


def hf32_product(left: Tensor, right: Tensor) -> Tensor:
    """Operands in HF32, the sum in float32."""
    return hf32(left) @ hf32(right)


@dataclass(frozen=True)
class Arithmetic:
    """By what transforms are learned. `wide`: what stands for float64; `product`: of float32 matrices, None: torch's."""

    invert: Inverse = inverse
    wide: torch.dtype = torch.float64
    product: Product | None = None

    @contextmanager
    def products(self) -> Iterator[None]:
        """Every product of float32 matrices within, of gradients too, by `product`; those inside fused attention stay torch's."""
        if self.product is None:
            yield
            return
        with _Products(self.product):
            yield


class _Products(TorchDispatchMode):
    """Computes aten's products of float32 matrices by another function."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.product = product

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten, kwargs = torch.ops.aten, kwargs or {}
        if function in (aten.mm.default, aten.bmm.default) and args[0].dtype == torch.float32:
            return self.product(*args)
        if function in (aten.addmm.default, aten.baddbmm.default) and args[0].dtype == torch.float32:
            bias, left, right = args
            return kwargs.get("beta", 1) * bias + kwargs.get("alpha", 1) * self.product(left, right)
        return function(*args, **kwargs)


@dataclass(frozen=True)
class Switch:
    """`what` departs, known from `source`. `acts`: while transforms are learned (learning), while a model runs (serving), in
    every recipe as it is (always), or nowhere in this pipeline (nowhere).
    """

    what: str
    source: str
    acts: Literal["learning", "serving", "always", "nowhere"]


SWITCHES: dict[str, Switch] = {
    "E0": Switch("the inverse has no gradient", "wheels: torch_npu up to 2.6.0 (v7.1.0)", "learning"),
    "E1": Switch("float64 is float32", "wheels and source: torch_npu, 2.5 and later", "learning"),
    "E2": Switch("the inverse, with its gradient, in float32", "source: torch_npu", "learning"),
    "E3": Switch("products of float32 matrices in HF32", "documents; off by default", "learning"),
    "E4": Switch("E7, and float16 saturates", "documents: 310P and A1; not the default of 910B", "serving"),
    "E5": Switch("static dequantization scales of 19 bits", "source: op-plugin; float16 models", "nowhere"),
    "E6": Switch("scales in bfloat16", "wheels: loader of vllm-ascend", "always"),
    "E7": Switch("fused Kronecker transform with a float16 intermediate", "source: npu_kronecker_quant", "serving"),
    "E8": Switch("norms after a residual sum round three times to bfloat16", "source: AddRmsNorm", "serving"),
    "E9": Switch("products of matrices are summed block by block", "inference", "learning"),
    "E10": Switch("dequantized 4-bit weights in bfloat16", "source: npu_weight_quant_batchmatmul", "always"),
    "E11": Switch("keys and values are quantized for decoding alone", "source: vllm-ascend", "serving"),
}
LEARNING: dict[str, Arithmetic] = {
    "E0": Arithmetic(without_gradient),
    "E1": Arithmetic(in_float32, wide=torch.float32),
    "E2": Arithmetic(in_float32),
    "E3": Arithmetic(product=hf32_product),
    "E9": Arithmetic(product=blocked_product),
}
KRONECKER: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "E4": (through_bfloat16, saturating_float16),
    "E7": (through_bfloat16, through_float16),
}
