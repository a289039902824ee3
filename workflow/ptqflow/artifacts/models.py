"""Model folders: which files belong to a model, and whether they are whole. Reads no weights and imports no framework."""

import json
import math
import os
import re
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from ptqflow.artifacts.model_config import read_object
from ptqflow.errors import ArtifactError, ConfigError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CARD = "README.md"
ADAPTER = "adapter_config.json"  # loaded unasked by transformers, where it has the package for it
TEMPLATES = "additional_chat_templates"  # folder of further templates, by name
_DESCRIPTION = (
    *("config.json", "generation_config.json", "tokenizer*.json", "*.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template*.jinja", "chat_template*.json", f"{TEMPLATES}/*.jinja", INDEX),
    CARD,
)
_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt")  # any of which one is loaded from
# What a licence asks to be passed on, however it is spelled.
_LEGAL = re.compile(r"[^/]*(licen[sc]e|notice|copying|use[_-]?policy)[^/.]*(\.\d+)*(\.(txt|md|rst|html|pdf))?", re.IGNORECASE)
# What loaders read by its name alone, so that a stray file would take a listed one's place.
_READ_UNASKED = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".py")
_LARGEST_HEADER = 100_000_000  # bytes; the format's own limit
Part = Literal["models", "notices"]


def description_files(names: Collection[str]) -> list[str]:
    """Of a folder's file names, those that describe the model: configuration, tokenizer, licence, index of the weights."""
    return sorted(name for name in names if _LEGAL.fullmatch(name) or any(fnmatch(name, pattern) for pattern in _DESCRIPTION))


def of_part(names: Iterable[str], part: Part | None) -> list[str]:
    """Of a model's files those of a part: `notices`, the card and licence, which travel with its checkpoints and of which nothing
    is computed; `models`, all others. None: both.
    """
    return [name for name in names if part in (None, "notices" if name == CARD or _LEGAL.fullmatch(name) else "models")]


def weight_files(folder: Path, names: Collection[str]) -> list[str]:
    """The safetensors files that transformers would load: `model.safetensors`, else the shards that the index lists.

    `names` are the files of the model (on disk or on the hub); the index, if among them, must already be in `folder`.
    """
    if WEIGHTS in names:
        return [WEIGHTS]
    if INDEX in names:
        shards = sorted(set(_weight_map(folder).values()))
        if absent := [shard for shard in shards if shard not in names]:
            raise ArtifactError(f"{folder / INDEX} lists {', '.join(absent)}, which the model lacks; copy or fetch it again")
        return shards
    others = [name for name in sorted(names) if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".gguf", ".msgpack"))]
    raise ConfigError(
        f"{folder} holds neither {WEIGHTS} nor {INDEX}" + (f" but {', '.join(others[:3])}" if others else "") + "; only "
        ".safetensors is read: convert the model with AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
    )


def source_files(path: str | os.PathLike[str]) -> list[str]:
    """Sorted names of the files to take from the local model folder `path`; everything else (code, pickles) stays behind.

    Raises ConfigError or ArtifactError for a folder that is no model, asks for remote code, or is not whole.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ConfigError(f"model path {path} is not a folder; correct the path, or give repo and revision of a hub model")
    names = files_in(folder)
    kept = description_files(names)
    for name in kept:
        _refuse_link_out(folder, name)
    check_description(folder, names)
    weights = weight_files(folder, names)
    for name in weights:
        _refuse_link_out(folder, name)
    check_weights(folder, weights)
    return sorted({*kept, *weights} - ({INDEX} if WEIGHTS in weights else set()))


def files_in(folder: Path) -> list[str]:
    """Names of the files of a model folder, those of its folder of chat templates too."""
    found = [*folder.iterdir(), *(folder / TEMPLATES).glob("*")]
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def strays(folder: Path, listed: Collection[str]) -> list[str]:
    """Files of a folder that are not listed, and that a loader would read because they are there."""
    return [name for name in files_in(folder) if name not in listed and not name.startswith(".") and name.endswith(_READ_UNASKED)]


def _refuse_link_out(folder: Path, name: str) -> None:
    """A link may lead to a file of the folder, or of the blobs of the hub's cache: any other would be published with it."""
    target, home = (folder / name).resolve(), folder.resolve()
    roots = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(target.is_relative_to(root) for root in roots):
        raise ConfigError(f"{folder / name} is a link to a file outside the model folder; put a copy there, or remove it")


def check_description(folder: Path, names: Collection[str] = ()) -> None:
    """Refuse a folder without a readable `config.json`, with an adapter among its `names`, or that asks to run its own code."""
    if ADAPTER in names:
        raise ConfigError(
            f"{folder}: the model has {ADAPTER}, an adapter of its weights, which not every engine would read; merge it "
            "(merge_and_unload) and save the whole model, or remove it"
        )
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} has no config.json, so it is no model folder; give the folder that transformers would load")
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and (code := read_object(folder / name).get("auto_map")):
            raise ConfigError(
                f"{folder / name} asks for remote code (auto_map: {json.dumps(code)[:200]}), which is never trusted; "
                "use a model whose architecture transformers ships (then a local copy without auto_map loads)"
            )


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer of a model folder has a chat template, in a file of its own or in its configuration."""
    return bool(chat_templates(folder))


def chat_templates(folder: Path) -> list[str]:
    """The chat templates of a model folder's tokenizer: files of their own, else what its configuration holds, as in loaders."""
    names = [name for name in files_in(folder) if name == "chat_template.jinja" or fnmatch(name, f"{TEMPLATES}/*.jinja")]
    if names:
        return [(folder / name).read_text(encoding="utf-8", errors="replace") for name in names]
    config = folder / "tokenizer_config.json"
    stated = read_object(config).get("chat_template") if config.is_file() else None
    entries = stated if isinstance(stated, list) else [stated]  # several by name, or one
    return [str(entry.get("template", "") if isinstance(entry, dict) else entry) for entry in entries if entry]


def check_tokenizer(folder: Path, speaking: Sequence[str]) -> None:
    """Refuse a folder without a tokenizer, or without the chat template that `speaking`, keys of a configuration, need."""
    if not any(fnmatch(name, pattern) for name in files_in(folder) for pattern in _TOKENIZERS):
        raise ConfigError(f"{folder} holds no tokenizer (tokenizer.json); copy the model's files for it there")
    if speaking and not has_chat_template(folder):
        raise ConfigError(
            f"{folder} has no chat template, which {', '.join(speaking)} need; use an instruction-tuned model, put its "
            "chat_template.jinja there, or use calibration format plain, and tasks of choices and text"
        )


def check_weights(folder: Path, weights: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The header of every safetensors file, which is as long as that says and holds the tensors that the index places in it.

    Of shards the index lists all tensors: engines read what it leaves out, and who reads by it would not.
    """
    headers = {name: read_header(folder / name) for name in weights}
    listed = _weight_map(folder) if WEIGHTS not in headers else {}
    for tensor, shard in listed.items():
        if tensor not in headers[shard]:
            raise ArtifactError(f"{folder / shard} lacks {tensor}, which {INDEX} places there; copy or fetch the model again")
    for shard, header in headers.items() if listed else ():
        if unlisted := sorted(header.keys() - listed.keys() - {"__metadata__"}):
            raise ArtifactError(
                f"{folder / shard} holds {unlisted[0]}, which {INDEX} does not list; copy or fetch the model again"
            )
    return headers


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: tensor name -> dtype, shape, data_offsets. Refuses a truncated or foreign file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":
            raise ArtifactError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` in its folder")
        length = int.from_bytes(start, "little")
        try:
            if len(start) < 8 or length > min(size, _LARGEST_HEADER):
                raise ValueError("no header")
            header = json.loads(file.read(length))
            if not all(_is_entry(entry) for name, entry in header.items() if name != "__metadata__"):
                raise ValueError("an entry's dtype, shape and length do not fit")
            end = 8 + length + max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ArtifactError(f"{path} is not a whole safetensors file ({error}); copy or fetch it again") from None
    if end != size:
        raise ArtifactError(f"{path} has {size} bytes, its header says {end} (truncated?); copy or fetch it again")
    return dict(header)


def _is_entry(entry: Any) -> bool:
    """Whether a tensor's entry has a dtype, a shape and offsets, of one length where the dtype is of whole bytes."""
    dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    whole = all(type(number) is int and number >= 0 for number in (*shape, start, end))
    bits = re.fullmatch(r"[A-Z]+(8|16|32|64|128)(?:_\w+)?", dtype)
    return whole and start <= end and (bits is None or end - start == math.prod(shape) * int(bits[1]) // 8)


def front_matter(folder: Path) -> dict[str, Any]:
    """What the head of the model card (README.md) says in the hub's keys; nothing where it has none that is YAML."""
    import yaml

    card = folder / CARD
    text = card.read_text(encoding="utf-8-sig", errors="replace") if card.is_file() else ""
    front = re.match(r"---\r?\n(.*?)\n---", text, flags=re.DOTALL)
    try:
        said = yaml.safe_load(front[1]) if front else None
    except (yaml.YAMLError, ValueError):  # a card that the hub would not read either
        return {}
    return said if isinstance(said, dict) else {}


def license_of(folder: Path) -> str | None:
    """The `license` entry of the model card, of several with commas between; None where it states none."""
    stated = front_matter(folder).get("license")
    named = [entry for entry in (stated if isinstance(stated, list) else [stated]) if isinstance(entry, str)]
    return ", ".join(named) or None


def _weight_map(folder: Path) -> dict[str, str]:
    table = read_object(folder / INDEX).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(shard, str) for shard in table.values()):
        raise ArtifactError(f"{folder / INDEX} has no weight_map of tensors to files; copy or fetch the model again")
    return table
