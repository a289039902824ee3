"""Compiles our kernels for GPUs that are not there, and prints the bytes of shared memory that each asks for: one JSON object.

For a process of its own: Triton either interprets or compiles.
"""

import json
import sys

import triton
from ptqflow.devices import triton_gptq
from ptqflow.devices import triton_kernels as ours
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

FLOATS, OUTPUTS = dict.fromkeys(("x", "left", "right"), "*bf16"), {"q": "*i8", "s": "*fp32", "z": "*fp32", "clip": "fp32"}
SUMS = {"total": "*i32", "sums": "*i32", "bias": "*bf16", "y": "*bf16"} | dict.fromkeys(("zero", "by_row", "by_column"), "*fp32")
WORDS = {"packed": "*i32", "pairs": "*bf16", "w": "*bf16"}
NUMBERS = ("block", "columns", "current", "steps", "made", "lower", "scales", "lowest", "highest")
LOOP = dict.fromkeys(NUMBERS, "*fp32") | {"groups": "*i64"}
TYPES = FLOATS | OUTPUTS | SUMS | LOOP | WORDS | dict.fromkeys(("n", "zero_stride", "row_stride", "out", "stride"), "i32")
SIDES = [(56, 64), (112, 128), (128, 148)]  # of 3584, 14336 and 18944 channels


def compiled(kernel, capability, warps, **constants):
    """The kernel of bfloat16 numbers, for a card of a compute capability."""
    types = {name: TYPES.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(kernel, types, {(kernel.arg_names.index(name),): value for name, value in constants.items()})
    return triton.compile(source, GPUTarget("cuda", capability, 32), {"num_warps": warps, **ours._EXACT})


def main(capability):
    """Every kernel, in the variants that linears ask for."""
    found = {}
    for bits, symmetric in ((4, True), (8, True), (8, False)):
        grid = {"BITS": bits, "SYMMETRIC": symmetric}
        for n in (4096, 32768):
            found[f"quantize {n} {grid}"] = compiled(ours._quantize, capability, ours._warps(n), **grid, N=n)
        for rows, columns in SIDES:
            L, R = (triton.next_power_of_2(side) for side in (rows, columns))
            sides = {"ROWS": rows, "COLUMNS": columns, "L": L, "R": R, "K": ours._INNER}
            found[f"transform {rows} x {columns} {grid}"] = compiled(
                ours._transform, capability, ours._warps(L * R), **grid, **sides
            )
    for on in (True, False):
        found[f"scale {on}"] = compiled(ours._scale, capability, 4, SHIFTED=on, BIASED=on, N=ours._COLUMNS)
    found["unpack"] = compiled(ours._unpack, capability, 4, GROUP=128, N=ours._UNPACKED)
    for count in (50, 128, 256):
        shape = {"COUNT": count, "COLUMNS": triton.next_power_of_2(count), "ROWS": triton_gptq._ROWS}
        found[f"visit {count}"] = compiled(triton_gptq._visit, capability, triton_gptq._WARPS, **shape)
    fused = [name for name, kernel in found.items() if "fma.rn.f32" in kernel.asm["ptx"]]
    exact = all("div.rn.f32" in kernel.asm["ptx"] for name, kernel in found.items() if not name.startswith(("scale", "unpack")))
    print(
        json.dumps({"shared": {name: kernel.metadata.shared for name, kernel in found.items()}, "fused": fused, "exact": exact})
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
