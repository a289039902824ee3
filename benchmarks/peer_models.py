"""The models that `peers.py` quantizes, each a folder with manifest, calibration tokens and held-out tokens."""

import json
import shutil
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import torch
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.schemas import TOKENS
from ptqflow.artifacts.tables import write_rows
from ptqflow.modeling.weights import save_safetensors
from ptqflow.stages import fetch, tokens

ROOT = Path(__file__).resolve().parents[1]
CALIBRATION, HELD_OUT = "resources/calibration/traces.jsonl", "resources/tasks/text/test.jsonl"
VOCABULARY = 8192
OUTLIERS = 8  # channels of each norm, as large language models have them


@dataclass(frozen=True)
class Shape:
    """Of a random Qwen2, and its calibration set: `sequences` of `length` tokens."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    sequences: int
    length: int


MIDDLE = Shape(8, 1024, 2816, 16, 8, 32, 512)  # 111M parameters
OF_7B = Shape(1, 3584, 18944, 28, 4, 128, 2048)  # a block of DeepSeek-R1-Distill-Qwen-7B, and the customary calibration set
SMALL = Shape(2, 256, 640, 4, 2, 8, 128)
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def demo(folder: Path) -> None:
    """The demo model; calibration: 64 windows of 256 tokens of its traces, held out: the text of the study's perplexity task."""
    fetch.run(
        fetch.Settings(path=str(ROOT / "resources/demo-model")), Namespace(output=folder / "manifest.json", part=None, code=None)
    )
    for name, source, format in (("tokens", CALIBRATION, "chat"), ("held_out", HELD_OUT, "plain")):
        drawn = {"source": {"path": str(ROOT / source)}, "format": format, "samples": 64, "sequence_length": 256}
        arguments = Namespace(model=folder / "manifest.json", output=folder.parent / f"{name}.parquet", code=None)
        tokens.run(tokens.Settings.model_validate(drawn), arguments)


def smollm2(folder: Path) -> None:
    """SmolLM2-135M-Instruct and data sets, as `make study-real` leaves them; calibration: 32 windows of 512 tokens of GSM8K's
    solutions, held out: 8 of WikiText-2's test split.

    Raises:
        SystemExit: they are not there.
    """
    made = ROOT / "build/real"
    if not (made / "smollm2/config.json").is_file() or not (made / "data").is_dir():
        raise SystemExit(f"{made} lacks smollm2 or data: `make study-real DATA=FOLDER` makes them first")
    fetch.run(fetch.Settings(path=str(made / "smollm2")), Namespace(output=folder / "manifest.json", part=None, code=None))
    solutions = {"source": {"path": str(made / "data/gsm8k"), "subset": "main", "split": "train"}, "format": "chat"}
    solutions |= {"fields": {"prompt": "question", "completion": "answer"}, "samples": 32}
    articles = {"source": {"path": str(made / "data/wikitext"), "subset": "wikitext-2-raw-v1", "split": "test"}, "samples": 8}
    for name, drawn in (("tokens", solutions), ("held_out", articles | {"format": "plain"})):
        arguments = Namespace(model=folder / "manifest.json", output=folder.parent / f"{name}.parquet", code=None)
        tokens.run(tokens.Settings.model_validate(drawn | {"sequence_length": 512}), arguments)


def random(folder: Path, shape: Shape = MIDDLE) -> None:
    """A Qwen2 (bfloat16) with random weights and tokens; held out: 8 sequences of at most 512 tokens.

    Made a little like a trained model: linears keep the scale of their input, norms have gains spread log-normally and a few
    channels 8 to 32 times larger, and the head gives logits of standard deviation 2.
    """
    generator, hidden, intermediate = torch.Generator().manual_seed(0), shape.hidden, shape.intermediate

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    def norm() -> torch.Tensor:
        gain = torch.exp(normal(hidden, scale=0.5))
        channels = torch.randperm(hidden, generator=generator)[:OUTLIERS]
        gain[channels] = 2.0 ** torch.randint(3, 6, (OUTLIERS,), generator=generator)
        return gain / gain.square().mean().sqrt()

    width = hidden // shape.heads
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (shape.key_heads * width, hidden),
        "self_attn.v_proj": (shape.key_heads * width, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
    }
    tensors = {"model.embed_tokens.weight": normal(VOCABULARY, hidden), "model.norm.weight": torch.ones(hidden)}
    tensors["lm_head.weight"] = normal(VOCABULARY, hidden, scale=2 * hidden**-0.5)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        for name, (rows, columns) in shapes.items():
            tensors[f"{prefix}{name}.weight"] = normal(rows, columns, scale=columns**-0.5)
            if name.endswith(("q_proj", "k_proj", "v_proj")):
                tensors[f"{prefix}{name}.bias"] = normal(rows, scale=0.1)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = norm()
    folder.mkdir(parents=True)
    save_safetensors(folder / "model.safetensors", {n: t.bfloat16().contiguous() for n, t in tensors.items()}, {"format": "pt"})
    (folder / "config.json").write_text(
        json.dumps(
            CONFIG
            | {
                "hidden_size": hidden,
                "intermediate_size": intermediate,
                "num_hidden_layers": shape.layers,
                "num_attention_heads": shape.heads,
                "num_key_value_heads": shape.key_heads,
            }
        )
    )
    # Peers ask for a tokenizer, though the calibration set is tokens already: any will do, and none is ever called.
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(ROOT / "resources/demo-model" / name, folder / name)
    Manifest.of_folder(folder, [path.name for path in folder.iterdir()], {}).write(folder)
    drawn = torch.randint(3, VOCABULARY, (shape.sequences + 8, shape.length), generator=generator).tolist()
    rows = [{"sequence": i, "tokens": row, "source": "random", "rows": [], "offset": 0} for i, row in enumerate(drawn)]
    held_out = [row | {"tokens": row["tokens"][:512]} for row in rows[shape.sequences :]]
    write_rows(folder.parent / "tokens.parquet", TOKENS, rows[: shape.sequences], {})
    write_rows(folder.parent / "held_out.parquet", TOKENS, held_out, {})


MODELS = {"demo": demo, "smollm2": smollm2, "random-111m": random, "block-of-7b": lambda folder: random(folder, OF_7B)}
TRAINED = ("demo", "smollm2")
GROUP_SIZE = {"smollm2": 64}  # of weights; 128 for the others, which divides their widths
