"""Writes a checkpoint of any form, shard by shard as the source is sharded: peak memory is one shard."""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from ptqflow.artifacts.atomic import atomic_path, remove_stale, write_json, write_text
from ptqflow.artifacts.models import CARD, description_files, files_in
from ptqflow.checkpoints.layout import BaseLayout
from ptqflow.modeling.weights import index_name, save_safetensors
from ptqflow.progress import progress

SOURCE_CARD = "README.source.md"  # the float model's own card, which speaks of another model but holds its licence
_WEIGHTS = (
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".pth",
    ".pt",
    ".gguf",
    ".onnx",
    ".h5",
    ".msgpack",
)


def write(layout: BaseLayout, sources: Mapping[str, Path], card: str, folder: Path) -> list[str]:
    """Write the checkpoint into `folder`; returns the names of its files.

    `sources` are the float model's files by name: all but weights, and what the layout writes itself, are carried along
    (tokenizer, generation config, chat template, licence). `card` is the text of README.md. What an earlier export left and this
    one lacks is removed. Raises ArtifactError naming a tensor that the form cannot hold.
    """
    source = layout.source
    shards = source.files()
    files = shard_names(layout.stem, len(shards))
    documents = layout.documents()
    carried = {name: SOURCE_CARD if name == CARD else name for name in sources if not name.endswith(_WEIGHTS)}
    carried = {name: target for name, target in carried.items() if name not in documents}
    index = {index_name(layout.stem)} if len(files) > 1 else set()
    written = sorted({*files, *index, *carried.values(), *documents, CARD})
    folder.mkdir(parents=True, exist_ok=True)
    remove_old(folder, keep=written)

    weight_map: dict[str, str] = {}
    total = 0
    with progress(f"export {folder}", len(shards), "shards") as bar:
        for shard, file in zip(shards, files, strict=True):
            tensors: dict[str, Tensor] = {}
            for name in sorted(name for name, member_of in source.file_of.items() if member_of == shard):
                tensors |= {key: tensor.contiguous() for key, tensor in layout.tensors_of(name).items()}
            save_safetensors(folder / file, tensors, {"format": source.metadata(shard).get("format", "pt")})
            weight_map |= dict.fromkeys(tensors, file)
            total += sum(tensor.nbytes for tensor in tensors.values())
            bar.update()

    for name in index:
        write_json(folder / name, {"metadata": {"total_size": total}, "weight_map": weight_map})
    for name, target in sorted(carried.items()):
        (folder / target).parent.mkdir(exist_ok=True)
        with atomic_path(folder / target) as temporary:
            shutil.copyfile(sources[name], temporary)
    for name, document in documents.items():
        write_json(folder / name, document)
    write_text(folder / CARD, card)
    return written


def remove_old(folder: Path, keep: Collection[str]) -> None:
    """Remove the weights of an earlier export and what described its model (a tokenizer, a chat template), since loaders read
    what is there, and what killed ones left.
    """
    remove_stale(folder)
    names = files_in(folder)
    weights = [name for name in names if ".safetensors" in name]
    for name in {*weights, *description_files(names)} - set(keep):
        (folder / name).unlink()


def shard_names(stem: str, count: int) -> list[str]:
    """File names of `count` shards, as the hub writes them."""
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
