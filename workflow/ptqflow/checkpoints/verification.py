"""Read a checkpoint back from disk and compare it, tensor by tensor, with the integers and scales that it was made from.

And with the float weights, from which no sound rounding leads further away than its bits allow (`distance`).

Two independent ways lead to each quantized weight: what the writer would store again (bit for bit), and what the form's reader
makes of the stored tensors (equal to qparams, and within rounding of the fake checkpoint's weight). So a wrong writer, a wrong
reader and a damaged file are three different findings.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ptqflow.checkpoints.distance import BEYOND, distance
from ptqflow.checkpoints.layout import WEIGHT, BaseLayout, QuantizedLinear
from ptqflow.errors import ArtifactError
from ptqflow.modeling.weights import Weights, index_name, open_safetensors
from ptqflow.progress import progress

BYTES_TOLERANCE = 0.01
_FOREIGN = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")


class Finding(NamedTuple):
    """One thing that was checked: `value` is what was measured (None: equality), `mismatch` what is wrong, if anything."""

    check: str
    subject: str
    value: float | None = None
    limit: float | None = None
    mismatch: str | None = None


def findings(layout: BaseLayout, folder: Path, fake: Weights | None) -> Iterator[Finding]:
    """Everything that can be said of the checkpoint in `folder` without running it; memory is one tensor.

    `fake`: the fake checkpoint of the same qparams (None where `folder` is one). Tensors that are missing or malformed are
    findings; so is a file that cannot be read.
    """
    try:
        stored = dict(_headers(folder, layout.stem))
    except ArtifactError as error:
        yield Finding("files", layout.stem, mismatch=str(error))
        return
    yield from _index(folder, layout.stem, stored)
    yield from (_document(folder / name, expected) for name, expected in layout.documents().items())
    spec = layout.spec()
    for name in sorted(spec.keys() - stored.keys()):
        yield Finding("names", name, mismatch="missing")
    for name in sorted(stored.keys() - spec.keys()):
        yield Finding("names", name, mismatch="not a tensor of this form: stale, or renamed")
    if spec.keys() != stored.keys():
        return
    yield _bytes([folder / name for name in set(stored.values())], sum(tensor.bytes for tensor in spec.values()))
    checkpoint = Weights.of_files(folder, stored)
    with progress(f"verify {folder}", len(layout.source.file_of), "tensors") as bar:
        for name in sorted(layout.source.file_of):
            yield from _of_source(layout, checkpoint, fake, name)
            bar.update()


def _headers(folder: Path, stem: str) -> Iterator[tuple[str, str]]:
    """(tensor, file) of each weight file of the form. Raises ArtifactError for unreadable and foreign files, repeated tensors."""
    files = sorted(path for path in folder.glob(f"{stem}*.safetensors"))
    if strangers := sorted({path for pattern in _FOREIGN for path in folder.glob(pattern)} - set(files)):
        raise ArtifactError(f"{strangers[0]} is not a weight file of this form; remove it, loaders may prefer it")
    if not files:
        raise ArtifactError(f"{folder} holds no {stem}*.safetensors; export it again")
    seen: dict[str, str] = {}
    for path in files:
        with open_safetensors(path) as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping
                if name in seen:
                    raise ArtifactError(f"{path} and {seen[name]} both hold {name}; export it again")
                seen[name] = path.name
                yield name, path.name


def _index(folder: Path, stem: str, stored: dict[str, str]) -> Iterator[Finding]:
    """The index lists each tensor at its file, and the sum of their bytes."""
    path = folder / index_name(stem)
    if not path.is_file():
        mismatch = "missing, though there are several weight files" if len(set(stored.values())) > 1 else None
        if mismatch:
            yield Finding("index", path.name, mismatch=mismatch)
        return
    try:
        index = json.loads(path.read_text())
        listed, total = dict(index["weight_map"]), int(index["metadata"]["total_size"])
    except (ValueError, KeyError, TypeError) as error:
        yield Finding("index", path.name, mismatch=f"not an index ({error})")
        return
    for name in sorted(listed.keys() | stored.keys()):
        if listed.get(name) != stored.get(name):
            yield Finding("index", name, mismatch=f"listed in {listed.get(name)}, found in {stored.get(name)}")
    found = sum(file.stat().st_size - _header_bytes(file) for file in (folder / name for name in set(stored.values())))
    wrong = f"total_size {total}, found {found}" if total != found else None
    yield Finding("index", path.name, float(found), float(total), wrong)


def _document(path: Path, expected: dict[str, Any]) -> Finding:
    """A JSON file tells engines what the writer would tell them."""
    try:
        same = json.loads(path.read_text()) == json.loads(json.dumps(expected))
    except (OSError, ValueError) as error:
        return Finding("documents", path.name, mismatch=f"not readable ({error})")
    return Finding("documents", path.name, mismatch=None if same else "does not say what this recipe and form need")


def _bytes(paths: list[Path], data: int) -> Finding:
    """The weight files are as large as the form says: the tensors' `data` bytes and the files' own headers, within 1 %."""
    expected = data + sum(map(_header_bytes, paths))
    found = sum(path.stat().st_size for path in paths)
    off = abs(found / expected - 1) > BYTES_TOLERANCE
    mismatch = f"{found} bytes, {expected} expected" if off else None
    return Finding("bytes", "weights", float(found), float(expected), mismatch)


def _header_bytes(path: Path) -> int:
    """Bytes before the tensors' data: safetensors begin with the length of a JSON header."""
    with path.open("rb") as file:
        return 8 + int(struct.unpack("<Q", file.read(8))[0])


def _of_source(layout: BaseLayout, checkpoint: Weights, fake: Weights | None, name: str) -> Iterator[Finding]:
    """Findings on the tensors that source tensor `name` became."""
    linear = layout.linears.get(name.removesuffix(WEIGHT)) if name.endswith(WEIGHT) else None
    made, sound = layout.tensors_of(name), True
    for key, spec in layout.spec_of(name).items():
        tensor = checkpoint[key]
        mismatch = spec.mismatch(tensor)
        if mismatch is None and not _same(tensor, made[key]):
            mismatch = "differs from what the integers and scales of quantize give"
        sound &= mismatch is None
        yield Finding("tensors", key, mismatch=mismatch)
    if linear is not None and sound:
        yield from _of_linear(layout, linear, checkpoint, fake)
        yield from _distance(layout, linear, checkpoint)


def _of_linear(layout: BaseLayout, linear: QuantizedLinear, checkpoint: Weights, fake: Weights | None) -> Iterator[Finding]:
    """The form's own reader gives back the integers, and a weight within rounding of the fake checkpoint's."""
    if fake is None:
        return
    read, made = layout.read(checkpoint, linear), layout.grid_weight(linear)
    for part in ("integers", "zero_point"):
        same = torch.equal(getattr(read, part).int(), getattr(made, part).int())
        yield Finding(part, linear.prefix, mismatch=None if same else "read back, they differ from quantize's")
    yield _close("scale", linear.prefix, read.scale, made.scale, _half_step(torch.bfloat16))
    fake_weight = fake[linear.prefix + WEIGHT]
    limit = _half_step(torch.bfloat16) + _half_step(fake_weight.dtype)
    yield _close("weight", linear.prefix, layout.read_weight(checkpoint, linear), fake_weight.float(), limit)


def _distance(layout: BaseLayout, linear: QuantizedLinear, checkpoint: Weights) -> Iterator[Finding]:
    """The weight is as near to the float model's as its bits allow, whatever integers and scales it was made from."""
    read = layout.read_weight(checkpoint, linear)
    found = distance(layout.source[linear.prefix + WEIGHT], linear, layout.recipe, layout.qparams, read, layout.architecture)
    if found is not None:
        far = f"{found.value:.3g} of the float weight's norm away from it, at most {found.limit:.3g} is rounding"
        out = f"{found.beyond:.3g} steps beyond the range of the float weight, at most {BEYOND:g} are rounding"
        yield Finding("distance", linear.prefix, found.value, found.limit, None if found.value <= found.limit else far)
        yield Finding("range", linear.prefix, found.beyond, BEYOND, None if found.beyond <= BEYOND else out)


def _close(check: str, subject: str, found: Tensor, expected: Tensor, limit: float) -> Finding:
    """The largest relative difference; zeros must be zeros."""
    difference = ((found - expected).abs() / expected.abs().clamp(min=torch.finfo(torch.float32).tiny)).max().item()
    mismatch = None if difference <= limit else f"relative difference {difference:.3g}, at most {limit:.3g} expected"
    return Finding(check, subject, difference, limit, mismatch)


def _half_step(dtype: torch.dtype) -> float:
    """Largest relative error of one rounding to `dtype`."""
    return float(torch.finfo(dtype).eps) / 2


def _same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*(t.reshape(-1).view(torch.uint8) for t in (a, b)))
