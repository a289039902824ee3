"""Tensors of a checkpoint by name, read one at a time from its safetensors files (one file, or shards with an index)."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ptqflow.artifacts.atomic import atomic_path
from ptqflow.errors import ArtifactError
from ptqflow.system import reading

_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool},
}


def index_name(stem: str = "model") -> str:
    """File name of the index of shards `stem-00001-of-...`."""
    return f"{stem}.safetensors.index.json"


def open_safetensors(path: Path) -> safe_open:
    """Open a safetensors file for reading. Raises ArtifactError when it is missing, truncated or something else."""
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; make it again")
    with reading(path, "a readable safetensors file", "delete it and make it again"):
        path.open("rb").close()  # the library says of a file without permission that it is not there
        return safe_open(path, framework="pt")


def save_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors atomically, with the permissions of an ordinary new file (the library's own are for the owner alone)."""
    with atomic_path(path) as temporary:
        _save(temporary, tensors, metadata)


@contextmanager
def gather_safetensors(path: Path, metadata: Mapping[str, str]) -> Iterator[Callable[[Mapping[str, Tensor]], None]]:
    """As `save_safetensors`, of tensors that come bit by bit: yields a function that takes some, of new names each time.

    They wait in files beside `path`, not in memory. `metadata` is read at the end.
    """
    with atomic_path(path) as temporary:
        part_of: dict[str, str] = {}
        parts = (f"part-{number}" for number in count())

        def take(tensors: Mapping[str, Tensor]) -> None:
            part = next(parts)
            save_file(dict(tensors), temporary.with_name(part))
            part_of.update(dict.fromkeys(tensors, part))

        yield take
        # Mapped into memory, not read, and let go before their files are.
        _save(temporary, Weights.of_files(temporary.parent, part_of).load(part_of), metadata)


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata=dict(metadata))
    path.chmod(mode)


class Weights:
    """The tensors of a model folder. `file_of` maps each tensor's name to the file that holds it."""

    def __init__(self, folder: Path, stem: str = "model") -> None:
        """Read the index (or the header of the single file `stem.safetensors`). Raises ArtifactError when there is neither."""
        self.folder = folder
        single, index = f"{stem}.safetensors", index_name(stem)
        if (folder / index).is_file():
            self.file_of: dict[str, str] = dict(json.loads((folder / index).read_text())["weight_map"])
        elif (folder / single).is_file():
            with open_safetensors(folder / single) as file:
                self.file_of = dict.fromkeys(file.keys(), single)
        else:
            raise ArtifactError(f"{folder} holds neither {single} nor {index}; convert the model to safetensors first")

    @classmethod
    def of_files(cls, folder: Path, file_of: Mapping[str, str]) -> "Weights":
        """Weights in files that are known, whatever an index says."""
        weights = cls.__new__(cls)
        weights.folder, weights.file_of = folder, dict(file_of)
        return weights

    def files(self, names: Iterable[str] | None = None) -> list[str]:
        """The weight files that hold `names` (or all files), sorted."""
        return sorted({self.file_of[name] for name in names} if names is not None else set(self.file_of.values()))

    def names_under(self, prefix: str) -> list[str]:
        """Names that start with `prefix`, sorted. Raises ArtifactError when there are none."""
        found = sorted(name for name in self.file_of if name.startswith(prefix))
        if not found:
            raise ArtifactError(f"{self.folder} holds no tensor {prefix}*; fetch the model again")
        return found

    def __getitem__(self, name: str) -> Tensor:
        """One tensor, on the CPU, in its stored dtype. Raises ArtifactError when it is not there."""
        return self.load([name])[name]

    def load(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Several tensors; each file is opened once."""
        wanted: dict[str, list[str]] = {}
        for name in names:
            if name not in self.file_of:
                raise ArtifactError(f"{self.folder} holds no tensor {name}; fetch the model again")
            wanted.setdefault(self.file_of[name], []).append(name)
        found: dict[str, Tensor] = {}
        for file_name, members in wanted.items():
            with open_safetensors(self.folder / file_name) as file:
                found |= {name: file.get_tensor(name) for name in members}
        return found

    def header(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Dtype and shape of a tensor; its data are not read. Raises ArtifactError as `load`."""
        if name not in self.file_of:
            raise ArtifactError(f"{self.folder} holds no tensor {name}; fetch the model again")
        with open_safetensors(self.folder / self.file_of[name]) as file:
            part = file.get_slice(name)
            return _DTYPES[part.get_dtype()], tuple(part.get_shape())

    def metadata(self, file_name: str) -> dict[str, str]:
        """The metadata entry of one file."""
        with open_safetensors(self.folder / file_name) as file:
            return dict(file.metadata() or {})
