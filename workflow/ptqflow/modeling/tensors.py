"""The tensors of a model folder against its config.json: all that an engine will load is there, finite, and one model in all.

transformers gives a tensor that is missing random values, passes over one that it does not know, where vLLM ends, and runs a head
that is stored though config.json ties it, where vLLM ties it. So there is what config.json asks for, or it is refused, by tensor,
key and remedy. Imports no framework.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ptqflow.artifacts.model_config import read_config
from ptqflow.artifacts.models import check_weights
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.modeling.anatomy import ATTENTION, EMBEDDING, HEAD, MLP, NORM, RECOMPUTED, architecture_of, block_prefix
from ptqflow.modeling.dimensions import head_dim, linear_shapes

_TIED_BY_DEFAULT = ("gemma2",)  # model types whose head is tied where config.json does not say
# Of each float dtype: the type of its bits, and the exponent's bits, all set where a value is no finite number.
_FLOATS = {
    "F64": (np.uint64, 0x7FF << 52),
    "F32": (np.uint32, 0xFF << 23),
    "F16": (np.uint16, 0x1F << 10),
    "BF16": (np.uint16, 0xFF << 7),
}
_BLOCK = 1 << 24  # bytes
_KEYS = {  # of config.json that a shape follows from, by a part of the tensor's name
    f".{MLP}.": "hidden_size and intermediate_size",
    f".{ATTENTION}.": "hidden_size, head_dim, num_attention_heads and num_key_value_heads",
    "norm.weight": "hidden_size",
    "": "vocab_size and hidden_size",
}

Headers = Mapping[str, Mapping[str, Any]]
Found = Mapping[str, tuple[Path, Mapping[str, Any]]]


def check_model(folder: Path, weights: Iterable[str], *, values: bool = False) -> None:
    """Raise ConfigError or ArtifactError where the safetensors files `weights` of a folder are not the model of its config.json.

    `values`: read them too, for what is no finite number, and for a head that differs from the embedding it is tied to.
    """
    config, headers = read_config(folder), check_weights(folder, weights)
    asked = stated_tensors(config)
    found = {name: (folder / file, entry) for file, header in headers.items() for name, entry in header.items()}
    found = {name: entry for name, entry in found.items() if name != "__metadata__" and not name.endswith(RECOMPUTED)}
    _check_once(folder, headers)
    _check_layers(folder, config, found)
    _check_names(folder, config, asked, found)
    for name, shape in asked.items():
        if name in found and found[name][1]["shape"] != list(shape):
            keys = next(keys for part, keys in _KEYS.items() if part in name)
            raise ConfigError(
                f"{folder}: {name} has shape {found[name][1]['shape']}, config.json says {list(shape)} ({keys}); correct "
                "config.json, or copy the model again"
            )
    if values:
        _check_values(folder, config, found)


def stated_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the float model that a config.json describes, by name, the head's also where it is tied.

    Raises ConfigError as `architecture_of`, or where no size of the vocabulary is stated.
    """
    found, hidden, width, vocabulary = architecture_of(config), config["hidden_size"], head_dim(config), config.get("vocab_size")
    if vocabulary is None:
        raise ConfigError("config.json states no vocab_size; add what the model has, as a whole number")
    block: dict[str, tuple[int, ...]] = {norm: (hidden,) for half in found.halves for norm in (half.norm, half.after) if norm}
    block |= {f"{ATTENTION}.{norm}": (width,) for norm in ("q_norm", "k_norm") if found.key_norm}
    block = {f"{name}.weight": shape for name, shape in block.items()}
    for linear, (rows, columns) in linear_shapes(config).items():
        block[f"{found.module_name(linear)}.weight"] = (rows, columns)
        if found.has_bias(linear, config):
            block[f"{found.module_name(linear)}.bias"] = (rows,)
    tensors = {block_prefix(layer) + name: shape for layer in range(config["num_hidden_layers"]) for name, shape in block.items()}
    return {EMBEDDING: (vocabulary, hidden), NORM: (hidden,), HEAD: (vocabulary, hidden)} | tensors


def _check_once(folder: Path, headers: Headers) -> None:
    for name in {name for header in headers.values() for name in header} - {"__metadata__"}:
        if len(files := [file for file, header in headers.items() if name in header]) > 1:
            raise ArtifactError(
                f"{folder}: {name} is in {' and in '.join(files)}, of which engines read one; copy the model again"
            )


def _check_layers(folder: Path, config: Mapping[str, Any], found: Found) -> None:
    """As many blocks are stored as are stated."""
    stated, prefix = config["num_hidden_layers"], block_prefix(0).removesuffix("0.")
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in found if name.startswith(prefix)}
    stored = 1 + max((int(number) for number in numbers if number.isdecimal() and len(number) < 10), default=-1)
    if stored != stated:
        raise ConfigError(
            f"{folder}: its weights hold {stored} blocks, config.json says num_hidden_layers {stated}; correct config.json, or "
            "copy the model again"
        )


def _check_names(folder: Path, config: Mapping[str, Any], asked: Iterable[str], found: Found) -> None:
    for name, (_, entry) in found.items():
        if entry["dtype"] not in _FLOATS:
            raise ConfigError(
                f"{folder}: {name} is stored as {entry['dtype']}, of which config.json says nothing; start from the float model"
            )
    if lacking := [name for name in asked if name not in found and not (name == HEAD and is_tied(config))]:
        key = " (tie_word_embeddings is false)" if lacking[0] == HEAD else ""
        raise ArtifactError(
            f"{folder} lacks {_first(lacking)}, which its config.json asks for{key}; copy or fetch the model again"
        )
    if foreign := sorted(found.keys() - set(asked)):
        key = f" ({'mlp_bias' if MLP in foreign[0] else 'attention_bias'} is not true)" if foreign[0].endswith(".bias") else ""
        raise ConfigError(
            f"{folder} holds {_first(foreign)}, for which its config.json has no place{key}, and which engines pass over or "
            "refuse; correct config.json, merge an adapter into the weights, or remove the tensor"
        )


def _first(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more tensors" if len(names) > 1 else "")


def _check_values(folder: Path, config: Mapping[str, Any], found: Found) -> None:
    for name, (path, entry) in found.items():
        kind, exponent = _FLOATS[entry["dtype"]]
        bits = kind(exponent)
        if any(((values & bits) == bits).any() for values in (np.frombuffer(part, kind) for part in _parts(path, entry))):
            raise ArtifactError(f"{folder}: {name} holds values that are no finite numbers; copy or fetch the model again")
    if not is_tied(config) or HEAD not in found:
        return
    embedding, head = found[EMBEDDING], found[HEAD]
    same = embedding[1]["dtype"] == head[1]["dtype"] and all(
        mine == other for mine, other in zip(_parts(*embedding), _parts(*head), strict=True)
    )
    if not same:
        raise ConfigError(
            f"{folder}: config.json ties the head to the embedding (tie_word_embeddings), but {HEAD} differs from {EMBEDDING}: "
            "engines would run two models; write tie_word_embeddings: false, or remove the tensor"
        )


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the head is the embedding's matrix."""
    return bool(config.get("tie_word_embeddings", config.get("model_type") in _TIED_BY_DEFAULT))


def _parts(path: Path, entry: Mapping[str, Any]) -> Iterator[bytes]:
    """The bytes of a tensor, some at a time."""
    start, end = entry["data_offsets"]
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little") + start)
        for at in range(start, end, _BLOCK):
            yield file.read(min(_BLOCK, end - at))
