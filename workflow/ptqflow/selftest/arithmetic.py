"""What numbers are on a device: precision of products, rounding, overflow, copies, repeatability."""

import math

import torch

from ptqflow.numerics.gram import mirror
from ptqflow.numerics.linalg import damped_cholesky
from ptqflow.selftest.probe import Finding, Probe, numbers, relative_error

_N = 256
# What is factored, solved, inverted and multiplied in integers, here and in others' methods.
_OPERATORS = (
    "linalg_cholesky_ex",
    "linalg_solve_triangular",
    "linalg_inv_ex",
    "_linalg_solve_ex",
    "linalg_qr",
    "_linalg_svd",
    "_int_mm",
)
_CPU = torch.device("cpu")


def _significand_bits(device: torch.device) -> int:
    """Bits that a product of float32 matrices keeps of its operands: 24, of HF32 12, of TF32 11, of bfloat16 8.

    1 + 2^-k is told from 1 while k is below that number; the matrix is large enough for the units that would round.
    """
    identity = torch.eye(_N, device=device)
    kept = [k for k in range(1, 24) if bool(((torch.full((_N, _N), 1 + 2.0**-k).to(device) @ identity) != 1).all())]
    return max(kept, default=0) + 1


def float32_bits(device: torch.device) -> Finding:
    """Bits missing from float32 products where true float32 is asked for."""
    bits = _significand_bits(device)
    return Finding(24 - bits, 0, f"{bits} of 24 bits of an operand count")


def float32_bits_unasked(device: torch.device) -> Finding:
    """The same as a fresh process has it; on record."""
    bits = _significand_bits(device)
    return Finding(24 - bits, 23, f"{bits} of 24 bits of an operand count unless true float32 is asked for")


def product_error(device: torch.device) -> Finding:
    """Relative error of a float32 product of 256 terms."""
    left, right = numbers(_N, _N), numbers(_N, _N, seed=1)
    return Finding(relative_error(left.to(device) @ right.to(device), left.double() @ right.double()), 1e-6)


def bfloat16_product_error(device: torch.device) -> Finding:
    """Relative error of a bfloat16 product of 256 terms, whose sums must be float32: rounding the result is 2^-9 at most."""
    left, right = numbers(_N, _N).bfloat16(), numbers(_N, _N, seed=1).bfloat16()
    return Finding(relative_error(left.to(device) @ right.to(device), left.double() @ right.double()), 2.0**-8)


def half_to_even(device: torch.device) -> Finding:
    """How many of six halves do not round to the even neighbour."""
    halves = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    wrong = (halves.to(device).round().cpu() != torch.tensor([-2.0, -2.0, 0.0, 0.0, 2.0, 2.0])).sum()
    return Finding(float(wrong), 0)


def bfloat16_half_to_even(device: torch.device) -> Finding:
    """How many of 4096 float32 numbers, halves among them, become another bfloat16 than on the CPU."""
    x = torch.cat([numbers(2048), (torch.arange(2048) * 2 + 1) / 256])  # of the latter many lie between two bfloat16
    return Finding(float((x.to(device).bfloat16().cpu() != x.bfloat16()).sum()), 0)


def quotient_error(device: torch.device) -> Finding:
    """Largest relative error of 4096 quotients: x / scale decides which integer a weight becomes. Half a last place: 2^-24."""
    x, y = numbers(4096), numbers(4096, seed=1)
    exact = x.double() / y.double()
    return Finding((((x.to(device) / y.to(device)).cpu() - exact) / exact).abs().max().item(), 2.0**-22)


def copied(device: torch.device) -> Finding:
    """How many of all 65,536 patterns of 16 bits come back from the device as others."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    there = bits.view(torch.float16).to(device, non_blocking=True).clone()
    return Finding(float((there.cpu().view(torch.int16) != bits).sum()), 0)


def strided_copy(device: torch.device) -> Finding:
    """How many numbers of a transposed matrix are wrong after a copy to the device and back."""
    matrix = numbers(33, 65)
    return Finding(float((matrix.T.to(device)[1:, ::2].cpu() != matrix.T[1:, ::2]).sum()), 0)


def float64_type(device: torch.device) -> Finding:
    """1 where float64 becomes another type; asks for no number."""
    made = {torch.ones(1).to(device).to(torch.float64).dtype, torch.ones(1, dtype=torch.float64).to(device).dtype}
    other = sorted(str(dtype).removeprefix("torch.") for dtype in made - {torch.float64})
    return Finding(float(bool(other)), 0, f"float64 becomes {other[0]}" if other else "")


def keeps_float64(device: torch.device) -> Finding:
    """1 where float64 loses digits without a word."""
    if not (found := float64_type(device)).passed:
        return found
    kept = bool(((torch.tensor([1 + 2.0**-40], dtype=torch.float64).to(device) - 1).cpu() == 2.0**-40).all())
    return Finding(float(not kept), 0, "" if kept else "float64 is computed in fewer digits")


def without_kernels(device: torch.device) -> Finding:
    """How many operators have no kernel of the device: the CPU computes them there, or they are refused."""
    key = torch._C._dispatch_key_for_device(device.type)
    without = [name for name in _OPERATORS if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key)]
    return Finding(float(len(without)), 0, f"computed on the CPU or refused: {', '.join(without)}" if without else "")


def overflows(device: torch.device) -> Finding:
    """1 where float16 beyond its range is a number (saturation), not infinity."""
    over = (torch.tensor([6e4], dtype=torch.float16).to(device) * 2).cpu()
    return Finding(float(not math.isinf(over.item())), 0, f"60000 * 2 in float16 is {over.item():g}")


def repeatable(device: torch.device) -> Finding:
    """How many numbers of a product and of a scattered sum differ when done again."""
    x, index = numbers(_N, _N).to(device), torch.arange(4 * _N).remainder(7).to(device)
    rows = numbers(4 * _N, 64).to(device)

    def once() -> torch.Tensor:
        scattered = torch.zeros(7, 64, device=device).index_add_(0, index, rows)
        return torch.cat([(x @ x.T).flatten(), scattered.flatten()])

    first = once()
    return Finding(float(max((once() != first).sum().item() for _ in range(4))), 0, "product of matrices, scattered sum")


def gram_error(device: torch.device) -> Finding:
    """Relative error of XᵀX over 2048 rows."""
    x = numbers(2048, _N)
    x[:, :4] *= 100  # outlier channels
    return Finding(relative_error(x.to(device).T @ x.to(device), x.double().T @ x.double()), 1e-6)


def cholesky_error(device: torch.device) -> Finding:
    """Relative error of L Lᵀ of a Hessian whose columns' sizes spread over four decades, damped by 1 %."""
    x = numbers(1024, _N) * torch.logspace(-2, 2, _N)
    exact = x.double().T @ x.double() / len(x)
    factor = damped_cholesky(exact.float().to(device), 0.01)
    if factor is None or factor.damping > 0.01:
        return Finding(math.inf, 1e-5, "needs more damping than on the CPU" if factor else "no factor at any damping")
    lower = factor.lower.cpu().double().tril()
    damped = exact + factor.added * torch.eye(_N)
    return Finding(relative_error(lower @ lower.T, damped), 1e-5)


def triangular_error(device: torch.device) -> Finding:
    """Relative error of L⁻¹ B."""
    lower, right = (numbers(_N, _N) / _N + torch.eye(_N)).tril(), numbers(_N, 64, seed=1)
    found = torch.linalg.solve_triangular(lower.to(device), right.to(device), upper=False)
    return Finding(relative_error(found, torch.linalg.solve_triangular(lower.double(), right.double(), upper=False)), 1e-5)


def mirrored(device: torch.device) -> Finding:
    """How many numbers differ once the lower half of a matrix is copied onto its upper one."""
    matrix = numbers(300, 300).to(device)
    mirror(matrix)
    return Finding(float((matrix != matrix.T).sum()), 0)


def optimizer_error(device: torch.device) -> Finding:
    """Relative error of 20 steps of AdamW on a quadratic, against float64 on the CPU."""

    def trained(where: torch.device, dtype: torch.dtype) -> torch.Tensor:
        target = numbers(64).to(where, dtype)
        parameter = torch.zeros(64, device=where, dtype=dtype, requires_grad=True)
        optimizer = torch.optim.AdamW([parameter], lr=1e-2, weight_decay=0.0)
        for _ in range(20):
            optimizer.zero_grad()
            with torch.enable_grad():
                (parameter - target).square().sum().backward()
            optimizer.step()
        return parameter.detach()

    return Finding(relative_error(trained(device, torch.float32), trained(_CPU, torch.float64)), 1e-5)


PROBES = [
    Probe("bits of a float32 product", float32_bits, "arithmetic"),
    Probe("float32 product", product_error, "arithmetic"),
    Probe("bfloat16 product", bfloat16_product_error, "arithmetic"),
    Probe("rounding to integers, half to even", half_to_even, "arithmetic"),
    Probe("rounding to bfloat16", bfloat16_half_to_even, "arithmetic"),
    Probe("float32 quotient", quotient_error, "arithmetic"),
    Probe("copy, all 16-bit patterns", copied, "arithmetic"),
    Probe("copy of a transposed matrix", strided_copy, "arithmetic"),
    Probe("Gram matrix", gram_error, "second_order"),
    Probe("Cholesky factor", cholesky_error, "second_order"),
    Probe("triangular solution", triangular_error, "second_order"),
    Probe("mirrored matrix", mirrored, "second_order"),
    Probe("20 steps of AdamW", optimizer_error, "training"),
    Probe("float64 is kept", keeps_float64, wiring=float64_type),
    Probe("factors and inverses have kernels", without_kernels, wiring=without_kernels),
    Probe("float16 overflows to infinity", overflows),
    Probe("the same numbers again", repeatable),
]
UNASKED = Probe("bits of a float32 product by default", float32_bits_unasked)
