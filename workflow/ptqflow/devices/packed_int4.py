"""Which weights of 4 bits torch's packed products take, by device. Import-light (no torch): asked before any job, too."""

INPUTS = {"cpu": 32, "cuda": 128}  # what the columns of a packed weight are multiples of
_GROUPS = (256, 128, 64, 32)  # columns that share a scale in these kernels
_OUTPUTS = 16  # what the rows are multiples of


def kernel_group(group: int) -> int | None:
    """The group size by which a kernel runs groups of so many columns: it divides theirs; None where there is none."""
    return next((size for size in _GROUPS if group % size == 0), None)


def refusal(device: str, out: int, columns: int, group: int) -> str | None:
    """Why there is no packed product on a device for a weight [out, columns] in groups of columns, or None. `reason; remedy`."""
    if device in INPUTS and kernel_group(group) is not None and not columns % INPUTS[device] and not out % _OUTPUTS:
        return None
    return (
        f"no packed 4-bit product on {device} for a weight [{out}, {columns}] with groups of {group}: groups must be multiples "
        f"of {_GROUPS[-1]}, inputs of {INPUTS.get(device, 128)}, outputs of {_OUTPUTS}; use engine transformers or vllm"
    )
