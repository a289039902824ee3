"""From integers, scales and transforms (`qparams.safetensors`) to the tensors that a dense checkpoint holds.

Names: `{linear prefix}.integers`, `.scale`, `.zero_point`; where there are any, `.unseen` [in] bool, columns rounded as 0
because no input excites them, and `.correction` [2]: |W* - W| and its largest, where W* was rounded instead of the weight W;
`model.layers.{i}.{site}.smoothing_scale` (shapes: `transforms.diagonal`); checkpoint names for float tensors that FlatQuant
changed, and for what it leaves to do at inference (`modeling.online`). Both the quantize stage (to run the quantized block) and
the dense writer use `deployed`, so the errors that are reported are those of the checkpoint.
"""

import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptqflow.artifacts.atomic import canonical_json
from ptqflow.errors import ArtifactError
from ptqflow.modeling.anatomy import Architecture, smoothing_key
from ptqflow.modeling.weights import gather_safetensors, open_safetensors
from ptqflow.numerics.grid import dequantize_weight
from ptqflow.transforms import diagonal

_METADATA = "ptqflow"  # the one metadata key of the file: several keys would be stored in random order
_CHECKSUMS = "crc32"  # in it: checksum of each tensor by name
_NAME = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")


def transformed(name: str, tensor: Tensor, scales: Mapping[str, Tensor], architecture: Architecture) -> Tensor:
    """Checkpoint tensor `name` with the scalings of its block folded in, where there are any (then float32, but for norms).

    `scales`: by `smoothing_key`, on the tensor's device. The columns of a linear's weight take the scale of the site it reads;
    its rows and its bias, or a norm, take the inverse scale of the site they make.
    """
    match = _NAME.fullmatch(name)
    if not match:
        return tensor
    layer, kind = int(match[1]), match[3]
    module, leaf = match[2], match[2].rpartition(".")[2]
    for site in architecture.sites:
        if (scale := scales.get(smoothing_key(layer, site.name))) is None:
            continue
        if module == site.norm:
            return diagonal.fold_into_norm(tensor, scale, architecture.norm_offset)
        if kind == "weight" and leaf in site.linears:
            tensor = diagonal.apply_to_weight(tensor, scale)
        if leaf == site.before:
            tensor = diagonal.fold_into_rows(tensor, scale)
    return tensor


def deployed(name: str, tensor: Tensor, qparams: Mapping[str, Tensor], architecture: Architecture) -> Tensor:
    """What takes the place of checkpoint tensor `name`: dequantized, or with scalings folded in, or `tensor` itself.

    The result has the shape and dtype of `tensor`.
    """
    if name in qparams:
        return qparams[name].to(tensor.dtype)
    prefix = name.removesuffix(".weight")
    if prefix != name and f"{prefix}.integers" in qparams:
        integers, scale, zero_point = (qparams[f"{prefix}.{part}"] for part in ("integers", "scale", "zero_point"))
        return dequantize_weight(integers, scale, zero_point).to(tensor.dtype)
    return transformed(name, tensor, qparams, architecture).to(tensor.dtype)


def _checksum(name: str, tensor: Tensor) -> int:
    """CRC-32 of a tensor's name, dtype, shape and bytes (on the CPU).

    What a damaged disk or copy changes, in the data or the header, would else be integers and scales like any other.
    """
    header = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
    return zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy().data, header)


def noted(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """For the origin of qparams: `fallbacks` and `warnings` of rows of diagnostics, each in how many places; none is left out."""
    found = {kind: Counter(row[kind] for row in rows if row.get(kind)) for kind in ("fallback", "warning")}
    return {f"{kind}s": dict(sorted(reasons.items())) for kind, reasons in found.items() if reasons}


@contextmanager
def write_qparams(path: Path, origin: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Tensor]], None]]:
    """Write what `QParams` reads, atomically: yields a function that takes some tensors, of new names each time.

    `origin`: the file's metadata beside the tensors' checksums.
    """
    checksums: dict[str, int] = {}
    metadata: dict[str, str] = {}
    with gather_safetensors(path, metadata) as take:

        def take_checked(tensors: Mapping[str, Tensor]) -> None:
            take(tensors)
            checksums.update({name: _checksum(name, tensor) for name, tensor in tensors.items()})

        yield take_checked
        metadata[_METADATA] = canonical_json(dict(origin) | {_CHECKSUMS: checksums})


class QParams(Mapping[str, Tensor]):
    """The qparams of all chunks as one mapping; tensors are read from their files, and checked, when asked for."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Read the headers. Raises ArtifactError for unreadable or damaged ones, and for a tensor that two files hold."""
        self._files: dict[str, Path] = {}
        self.metadata: dict[Path, dict[str, Any]] = {}
        for path in paths:
            with open_safetensors(path) as file:
                names = list(file.keys())
                self.metadata[path] = _metadata(path, names, (file.metadata() or {}).get(_METADATA, "{}"))
            if twice := sorted(self._files.keys() & set(names)):
                raise ArtifactError(f"{path} and {self._files[twice[0]]} both hold {twice[0]}; pass each chunk once")
            self._files |= dict.fromkeys(names, path)

    def __getitem__(self, name: str) -> Tensor:
        """One tensor. Raises ArtifactError when it is not what was written."""
        path = self._files[name]
        with open_safetensors(path) as file:
            tensor = file.get_tensor(name)
        if _checksum(name, tensor) != self.metadata[path][_CHECKSUMS][name]:
            raise ArtifactError(
                f"{path} is damaged ({name} has another checksum, of dtype, shape and data); delete it and run quantize again"
            )
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _metadata(path: Path, names: list[str], text: str) -> dict[str, Any]:
    try:
        metadata = dict(json.loads(text))
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged (its metadata: {error}); delete it and run quantize again") from None
    if metadata.get(_CHECKSUMS, {}).keys() != set(names):
        raise ArtifactError(f"{path} has no checksum for each of its tensors; delete it and run quantize again")
    return metadata
