"""The fake-quantized checkpoint: dequantized weights in the model's dtype, transforms folded in, everything else bit for bit.

Stock transformers loads it. Weight-only recipes need nothing more. Where activations or the cache are quantized, too, the config
says so in a way that transformers refuses without ptqflow (`modeling.quantizer`): it cannot run unquantized by accident.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from ptqflow.artifacts.atomic import atomic_path, write_json
from ptqflow.modeling import online
from ptqflow.modeling.attention_name import ATTENTION_NAME
from ptqflow.modeling.qparams import QParams, deployed
from ptqflow.modeling.quantizer import quantization_config
from ptqflow.modeling.weights import INDEX, Weights, save_safetensors
from ptqflow.progress import progress
from ptqflow.recipes import Recipe

_OTHER_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".gguf", ".onnx", ".h5", ".msgpack")


def write(model: Path, names: Iterable[str], qparams: QParams, recipe: Recipe, folder: Path) -> list[str]:
    """Write the checkpoint of `recipe` into `folder`, shard by shard as the source is sharded. Returns the files' names.

    `model`: folder of the float checkpoint, of whose files `names` (tokenizer, templates, ...) all but weights are carried along.
    Memory: one shard.
    """
    weights = Weights(model)
    shards = weights.files()
    extra = {name: weights.file_of[_neighbour(name)] for name in online.names(qparams)}
    folder.mkdir(parents=True, exist_ok=True)
    for stale in {path.name for path in folder.glob("model*.safetensors*")} - {*shards}:
        (folder / stale).unlink()  # of an earlier model with other shards: loaders prefer some names over others
    with progress("export", len(shards), "shards") as bar:
        for shard in shards:
            members = sorted(name for name, file in weights.file_of.items() if file == shard)
            tensors = weights.load(members)
            for name in members:
                tensors[name] = deployed(name, tensors[name], qparams).contiguous()
            for name in (name for name, file in extra.items() if file == shard):
                tensors[name] = qparams[name].contiguous()
            save_safetensors(folder / shard, tensors, {"format": weights.metadata(shard).get("format", "pt")})
            bar.update()

    carried = sorted(name for name in names if not name.endswith(_OTHER_WEIGHTS) and name != "config.json")
    for name in carried:
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(model / name, temporary)
    if extra and INDEX in carried:
        index = json.loads((model / INDEX).read_text())
        index["weight_map"] |= extra
        write_json(folder / INDEX, index)
    config = json.loads((model / "config.json").read_text())
    if not recipe.is_weight_only():
        config |= {"quantization_config": quantization_config(recipe), "attn_implementation": ATTENTION_NAME}
    write_json(folder / "config.json", config)
    return [*shards, *carried, "config.json"]


def _neighbour(name: str) -> str:
    """A tensor of the float checkpoint in the same block as online parameter `name`: both go to the same shard."""
    return ".".join([*name.split(".")[:3], "input_layernorm.weight"])
