"""What torch_npu's quantization kernels compute, in PyTorch on the CPU: reference semantics for tests, not speed.

Written from the kernels' documentation (CANN aclnn, torch_npu) and golden tests; nothing here ran on an NPU. `register` gives the
operators these CPU implementations: of an installed torch_npu with its own schemas, so that vllm-ascend's code runs unchanged;
without one, with those of torch_npu 2.13.0, so that `devices.npu` does. 4-bit integers travel as words of 8, the first in the
lowest bits.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

# As registered by torch_npu 2.13.0 (numbers of dtypes); older releases say `ScalarType?` and lack what follows `output_dtype`,
# `dst_type` and `dst_dtype`.
SCHEMAS = {
    "npu_quant_matmul": "(Tensor x1, Tensor x2, Tensor scale, *, Tensor? offset=None, Tensor? pertoken_scale=None, "
    "Tensor? bias=None, int? output_dtype=None, int? x1_dtype=None, int? x2_dtype=None, int? pertoken_scale_dtype=None, "
    "int? scale_dtype=None, int[]? group_sizes=None, Tensor? y_scale=None) -> Tensor",
    "npu_dynamic_quant": "(Tensor input, *, Tensor? smooth_scales=None, Tensor? group_index=None, int? dst_type=None, "
    'str quant_mode="pertoken", float dst_type_max=0.) -> (Tensor, Tensor)',
    "npu_quantize": "(Tensor input, Tensor scales, Tensor? zero_points, int dtype, int axis=1, bool div_mode=True) -> Tensor",
    "npu_kronecker_quant": "(Tensor x, Tensor kronecker_p1, Tensor kronecker_p2, float? clip_ratio=None, int? dst_dtype=None, "
    "float? dst_type_max=None) -> (Tensor out, Tensor quant_scale)",
    "npu_weight_quant_batchmatmul": "(Tensor x, Tensor weight, Tensor antiquant_scale, Tensor? antiquant_offset=None, "
    "Tensor? quant_scale=None, Tensor? quant_offset=None, Tensor? bias=None, int antiquant_group_size=0, int inner_precise=0, "
    "int? weight_dtype=None) -> Tensor",
    "npu_convert_weight_to_int4pack": "(Tensor weight, int inner_k_tiles=0) -> Tensor",
}
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
    antiquant_group_size: int = 0,
    inner_precise: int = 0,
    weight_dtype: int | None = None,
) -> Tensor:
    """x times (weight + offset) * scale, the dequantized weight rounded to the dtype of x.

    `weight` [in, out], int8 or words of 4-bit integers; scale and offset [groups, out], a group of `antiquant_group_size` rows.
    """
    integers = (_unpacked_matrix(weight) if weight.dtype == torch.int32 else weight).to(x.dtype)
    repeat = antiquant_group_size or len(integers)
    scale = antiquant_scale.reshape(-1, integers.shape[1]).repeat_interleave(repeat, 0)
    if antiquant_offset is not None:
        integers = integers + antiquant_offset.reshape(-1, integers.shape[1]).repeat_interleave(repeat, 0)
    result = x.float() @ (integers * scale).float()
    return (result if bias is None else result + bias.float()).to(x.dtype)


def dropout_with_add_softmax(
    input: Tensor, x1: Tensor, alpha: float, prob: float, dim: int, kept: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Training attention's add, softmax and dropout in one: (mask, softmax(alpha input + x1), that with dropout).

    Softmax is computed in float32. `kept`: the numbers that dropout leaves, which the kernel draws itself; None where `prob` is
    0. Raises ValueError for shapes that the kernel does not take: it has four dimensions, N * C a multiple of 32, H and W of
    128, 256, 384 or 512.
    """
    fits = input.dim() == 4 and input[:, :, 0, 0].numel() % 32 == 0 and set(input.shape[2:]) <= {128, 256, 384, 512}
    if not fits or dim not in (-1, 3):
        raise ValueError(f"npu_dropout_with_add_softmax takes no {list(input.shape)} along {dim}")
    soft = (input.float() * alpha + x1.float()).softmax(-1)
    mask = torch.ones_like(soft, dtype=torch.bool) if kept is None else kept
    return mask, soft.to(input.dtype), (soft * mask / (1 - prob)).to(input.dtype)


@cache
def register() -> torch.library.Library:
    """Make them the CPU implementations of torch_npu's operators, for as long as the process lasts."""
    if find_spec("torch_npu"):
        import_module("torch_npu")  # registers the schemas
        library = torch.library.Library("npu", "IMPL")
    else:
        library = torch.library.Library("npu", "FRAGMENT")
        for name, schema in SCHEMAS.items():
            library.define(name + schema)
    kernels = {
        "npu_quant_matmul": quant_matmul,
        "npu_dynamic_quant": dynamic_quant,
        "npu_quantize": quantize,
        "npu_kronecker_quant": kronecker_quant,
        "npu_weight_quant_batchmatmul": weight_quant_batchmatmul,
        "npu_convert_weight_to_int4pack": lambda weight, *tiles, **unused: pack_int4(weight),
    }
    for name, kernel in kernels.items():
        library.impl(name, kernel, "CPU")
    return library
