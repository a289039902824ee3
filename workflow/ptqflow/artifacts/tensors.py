"""The tensors of a model folder against its config.json: all that an engine will load is there, a float, and one model in all.

transformers gives a head that is missing random values, and runs a stored head that config.json says is tied, where vLLM ties it:
both are refused, by tensor, key and remedy. Reads headers, the final norm and, where the head is stored though tied, embedding
and head. Imports no framework.
"""

from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptqflow.errors import ArtifactError, ConfigError

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
_TIED_BY_DEFAULT = ("gemma2",)  # model types whose head is tied where config.json does not say
# Of each float dtype: the type of an array of its bits, and the exponent's bits, all set where a value is no finite number.
_FLOATS = {"F64": ("Q", 0x7FF << 52), "F32": ("I", 0xFF << 23), "F16": ("H", 0x1F << 10), "BF16": ("H", 0xFF << 7)}
_BLOCK = 1 << 22  # bytes


def check_tensors(folder: Path, headers: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]) -> None:
    """Raise ConfigError or ArtifactError for what is missing, of another shape or no float. `headers` by weight file."""
    found = {name: (folder / file, entry) for file, header in headers.items() for name, entry in header.items()}
    found.pop("__metadata__", None)
    for name in found:
        if len(files := [file for file, header in headers.items() if name in header]) > 1:
            raise ArtifactError(
                f"{folder}: {name} is in {' and in '.join(files)}, of which engines read one; copy the model again"
            )
    for name, (_, entry) in found.items():
        if name.endswith((".weight", ".bias")) and entry["dtype"] not in _FLOATS:
            raise ConfigError(
                f"{folder}: {name} is stored as {entry['dtype']}, of which config.json says nothing; start from the float model"
            )
    tied = _is_tied(config)
    vocabulary, hidden = config.get("vocab_size"), config.get("hidden_size")
    shapes = {EMBEDDING: [vocabulary, hidden], NORM: [hidden]}
    if HEAD in found or not tied:
        shapes[HEAD] = [vocabulary, hidden]
    for name, shape in shapes.items():
        if name not in found:
            key = " (tie_word_embeddings is false)" if name == HEAD else ""
            raise ArtifactError(f"{folder} lacks {name}, which its config.json asks for{key}; copy or fetch the model again")
        if None not in shape and found[name][1]["shape"] != shape:
            stated = "hidden_size" if name == NORM else "vocab_size and hidden_size"
            raise ConfigError(
                f"{folder}: {name} has shape {found[name][1]['shape']}, config.json says {shape} ({stated}); correct "
                "config.json, or copy the model again"
            )


def check_values(folder: Path, headers: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]) -> None:
    """Raise ConfigError or ArtifactError for a final norm that is not finite, or a stored head that differs though it is tied."""
    found = {name: (folder / file, entry) for file, header in headers.items() for name, entry in header.items()}
    kind, exponent = _FLOATS[found[NORM][1]["dtype"]]
    if any(value & exponent == exponent for block in _blocks(*found[NORM]) for value in array(kind, block)):
        raise ArtifactError(f"{folder}: {NORM} holds values that are no finite numbers; copy or fetch the model again")
    tied = _is_tied(config)
    if not tied or HEAD not in found:
        return
    embedding, head = found[EMBEDDING], found[HEAD]
    same = embedding[1]["dtype"] == head[1]["dtype"] and all(
        mine == other for mine, other in zip(_blocks(*embedding), _blocks(*head), strict=True)
    )
    if not same:
        raise ConfigError(
            f"{folder}: config.json ties the head to the embedding (tie_word_embeddings), but {HEAD} differs from {EMBEDDING}: "
            "engines would run two models; write tie_word_embeddings: false, or remove the tensor"
        )


def _is_tied(config: Mapping[str, Any]) -> bool:
    stated = config.get("tie_word_embeddings")
    return config.get("model_type") in _TIED_BY_DEFAULT if stated is None else bool(stated)


def _blocks(path: Path, entry: Mapping[str, Any]) -> Iterator[bytes]:
    """The bytes of a tensor, some at a time."""
    start, end = entry["data_offsets"]
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little") + start)
        for at in range(start, end, _BLOCK):
            yield file.read(min(_BLOCK, end - at))
