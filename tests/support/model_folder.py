"""A small but real model folder, made in milliseconds without torch: configuration, tokenizer with chat template, safetensors."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

BOS, EOS = "<|begin|>", "<|end|>"
# As the templates of distilled reasoning models: it writes BOS itself, drops past thinking, and opens the thinking.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}"
    "{% else %}<|assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


def write_tokenizer(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> None:
    """A byte-level tokenizer: one token per byte, plus special tokens, of which BOS is put before every text."""
    special = [BOS, EOS, "<|user|>", "<|assistant|>", "<think>", "</think>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(special + alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, special.index(BOS))])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | ({"chat_template": chat_template} if chat_template else {}))
    )


def write_model(folder: Path, shards: int = 1, kilobytes: int = 64, **config: object) -> Path:
    """A model folder of `shards` safetensors files of about `kilobytes` each, with content that differs between them."""
    write_tokenizer(folder)
    stated = {"model_type": "qwen2", "vocab_size": 262, "hidden_size": 8, "tie_word_embeddings": True, **config}
    (folder / "config.json").write_text(json.dumps(stated))
    (folder / "generation_config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: []\n---\n# A model\n")
    generator = np.random.default_rng(0)
    names = ["model.safetensors"] if shards == 1 else [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    outside = {"model.embed_tokens.weight": np.ones((262, 8), np.float16), "model.norm.weight": np.ones(8, np.float16)}
    for i, name in enumerate(names):
        tensors = {f"layer.{i}": generator.random(kilobytes * 256, dtype=np.float32)}
        save_file(tensors | (outside if i == 0 else {}), folder / name)
    if shards > 1:
        index = {
            "metadata": {},
            "weight_map": {f"layer.{i}": name for i, name in enumerate(names)} | dict.fromkeys(outside, names[0]),
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
