"""What torch_npu's quantization kernels compute, in PyTorch on the CPU: reference semantics for `ascend_proof.py`, not speed.

Written from the kernels' documentation (CANN aclnn, torch_npu) and golden tests; nothing here ran on an NPU. `register` gives the
operators of the installed torch_npu, with its own schemas, these CPU implementations, so that vllm-ascend's code runs unchanged.
4-bit integers travel as words of 8, the first in the lowest bits.
"""

import torch
import torch_npu  # noqa: F401  registers the schemas that `register` implements
from torch import Tensor

_OUTPUT = {None: torch.int8, 1: torch.int8, 3: torch.int32, 5: torch.float16, 15: torch.bfloat16}  # torch_npu's numbers of dtypes
_QUINT4X2 = 16


def pack_int4(values: Tensor) -> Tensor:
    """[..., n] integers in [-8, 7] -> [..., n / 8] int32."""
    nibbles = values.long().unflatten(-1, (-1, 8)) & 0xF
    words = (nibbles << (4 * torch.arange(8))).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def unpack_int4(words: Tensor) -> Tensor:
    """The inverse of `pack_int4`, as int32."""
    nibbles = (words.unsqueeze(-1) >> (4 * torch.arange(8, dtype=torch.int32))) & 0xF
    return torch.where(nibbles > 7, nibbles - 16, nibbles).flatten(-2)


def _unpacked_matrix(words: Tensor) -> Tensor:
    """A packed matrix, or the transpose of one (packed along its own rows)."""
    return unpack_int4(words) if words.is_contiguous() else unpack_int4(words.T.contiguous()).T


def _static_scale(scale: Tensor, truncated: bool) -> Tensor:
    """float32 from float32, bfloat16 or its bits in int64; `truncated`: the kernel keeps 19 bits of it."""
    bits = scale.to(torch.int32) if scale.dtype == torch.int64 else scale.float().contiguous().view(torch.int32)
    return (bits & -8192 if truncated or scale.dtype == torch.int64 else bits).view(torch.float32)


def quant_matmul(
    x1: Tensor,
    x2: Tensor,
    scale: Tensor,
    *,
    pertoken_scale: Tensor | None = None,
    bias: Tensor | None = None,
    output_dtype: int | torch.dtype | None = None,
    **unused: object,
) -> Tensor:
    """x1 [m, k] times x2 [k, n], integers summed exactly, times the scales of columns and tokens.

    An int32 bias joins the sum, a float one the product.
    """
    dtype = output_dtype if isinstance(output_dtype, torch.dtype) else _OUTPUT[output_dtype]
    left, right = (unpack_int4(x1), _unpacked_matrix(x2)) if x1.dtype == torch.int32 else (x1, x2)
    total = left.double() @ right.double()  # exact: below 2^53
    if bias is not None and bias.dtype == torch.int32:
        total += bias.double()
    result = total.float() * _static_scale(scale, truncated=pertoken_scale is None and dtype != torch.bfloat16)
    if pertoken_scale is not None:
        result *= pertoken_scale.float().unsqueeze(-1)
    if bias is not None and bias.dtype != torch.int32:
        result += bias.float()
    return result.to(dtype)


def dynamic_quant(x: Tensor, *, dst_type: int | torch.dtype | None = None, **unused: object) -> tuple[Tensor, Tensor]:
    """Symmetric integers of each token, 8 bits or (quint4x2) 4, and the scales max|x| / 127 or 7."""
    narrow = dst_type in (_QUINT4X2, torch.quint4x2)
    levels = 7 if narrow else 127
    factor = levels / x.float().abs().amax(-1, keepdim=True)
    integers = torch.round(x.float() * factor).clamp(-levels - 1, levels)
    return pack_int4(integers) if narrow else integers.to(torch.int8), factor.reciprocal().squeeze(-1)


def quantize(
    x: Tensor, scales: Tensor, zero_points: Tensor | None, dtype: object, axis: int = 1, div_mode: bool = True
) -> Tensor:
    """int8 round(x / scales + zero_points); `div_mode` false multiplies by `scales`."""
    scaled = x.float() / scales.float() if div_mode else x.float() * scales.float()
    return torch.round(scaled if zero_points is None else scaled + zero_points.float()).clamp(-128, 127).to(torch.int8)


def kronecker_quant(
    x: Tensor, p1: Tensor, p2: Tensor, clip_ratio: float | None = None, dst_dtype: object = None, **unused: object
) -> tuple[Tensor, Tensor]:
    """4-bit integers of p1 X p2 for each X of x [tokens, left, right], and the scales clip_ratio * max|.| / 7.

    Intermediates are rounded as the kernel does: to the dtype of x, then to float16.
    """
    y = (x.float() @ p2.float()).to(x.dtype)
    z = (p1.float() @ y.float()).half().float()
    largest = z.abs().amax((-2, -1)) * (1.0 if clip_ratio is None else clip_ratio)
    factor = torch.where(largest > 0, 7 / largest, torch.zeros_like(largest))
    return pack_int4(torch.round(z * factor[:, None, None]).clamp(-8, 7)), largest / 7


def weight_quant_batchmatmul(
    x: Tensor,
    weight: Tensor,
    antiquant_scale: Tensor,
    antiquant_offset: Tensor | None = None,
    quant_scale: Tensor | None = None,
    quant_offset: Tensor | None = None,
    bias: Tensor | None = None,
    **unused: object,
) -> Tensor:
    """x times (weight + offset) * scale, the dequantized weight rounded to the dtype of x."""
    shifted = weight.to(x.dtype) if antiquant_offset is None else weight.to(x.dtype) + antiquant_offset
    result = x.float() @ (shifted * antiquant_scale).float()
    return (result if bias is None else result + bias.float()).to(x.dtype)


def register() -> torch.library.Library:
    """Make them the CPU implementations of torch_npu's operators; they last as long as the library that is returned."""
    library = torch.library.Library("npu", "IMPL")
    kernels = {
        "npu_quant_matmul": quant_matmul,
        "npu_dynamic_quant": dynamic_quant,
        "npu_quantize": quantize,
        "npu_kronecker_quant": kronecker_quant,
        "npu_weight_quant_batchmatmul": weight_quant_batchmatmul,
        "npu_format_cast": lambda x, *layout, **unused: x.clone(),  # the values; their order in memory is the device's business
        "npu_convert_weight_to_int4pack": lambda weight, *tiles, **unused: pack_int4(weight),
    }
    for name, kernel in kernels.items():
        library.impl(name, kernel, "CPU")
    torch.Tensor.npu = lambda self, *device, **options: self  # type: ignore[attr-defined]  # all stays on the CPU
    return library
