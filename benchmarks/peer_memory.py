"""Peak memory of the running process. Needs nothing but Python: every system's environment imports it."""

from pathlib import Path


def peak_bytes() -> int:
    """Peak resident size since this program was started (`ru_maxrss` would begin with that of the process that started it)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
