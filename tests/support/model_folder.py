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
    """A qwen2 model of a block per shard, of about `kilobytes` each in float32 and float16; `config`: keys of config.json."""
    write_tokenizer(folder)
    width = max(kilobytes * 1024 // 96, 1)
    stated = {"model_type": "qwen2", "vocab_size": 262, "hidden_size": 8, "intermediate_size": width, "num_attention_heads": 2}
    stated |= {"num_key_value_heads": 1, "num_hidden_layers": shards, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(stated | config))
    (folder / "generation_config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: []\n---\n# A model\n")
    generator = np.random.default_rng(0)
    names = ["model.safetensors"] if shards == 1 else [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    outside = {"model.embed_tokens.weight": np.ones((262, 8), np.float16), "model.norm.weight": np.ones(8, np.float16)}
    shapes = {"mlp.gate_proj.weight": (width, 8), "mlp.up_proj.weight": (width, 8), "mlp.down_proj.weight": (8, width)}
    shapes |= {"self_attn.q_proj.weight": (8, 8), "self_attn.k_proj.weight": (4, 8), "self_attn.v_proj.weight": (4, 8)}
    shapes |= {"self_attn.o_proj.weight": (8, 8), "input_layernorm.weight": (8,), "post_attention_layernorm.weight": (8,)}
    shapes |= {"self_attn.q_proj.bias": (8,), "self_attn.k_proj.bias": (4,), "self_attn.v_proj.bias": (4,)}
    weight_map = {}
    for i, name in enumerate(names):
        tensors = {f"model.layers.{i}.{part}": generator.random(shape, dtype=np.float32) for part, shape in shapes.items()}
        tensors |= outside if i == 0 else {}
        save_file(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder
