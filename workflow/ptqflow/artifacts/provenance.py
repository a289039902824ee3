"""Who made a file: versions of what can change a number. Goes into every artifact's metadata."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("ptqflow", "torch", "transformers", "tokenizers", "lighteval", "numpy", "pyarrow", "compressed-tensors", "torch_npu")


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that matter."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def provenance(stage: str, settings: Any, code: str, **more: Any) -> dict[str, Any]:
    """Metadata of an artifact: stage, its settings, digest of its code, versions, and what the stage adds (device, inputs)."""
    return {"stage": stage, "settings": settings, "code": code, "versions": versions(), **more}
