"""A tiny random model with a byte tokenizer and a reasoning chat template, for tests that need text."""

from pathlib import Path

import torch
from ptqflow.artifacts.manifests import Manifest
from ptqflow.devices.device import Device
from ptqflow.engines.transformers_engine import TransformersEngine
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SPECIAL = ["<pad>", "<bos>", "<eos>", "<user>", "<assistant>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<user>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)


def byte_tokenizer(chat_template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token per byte; BOS is put before every text unless special tokens are off, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(SPECIAL + alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", chat_template=chat_template
    )


def talking_model(folder: Path, positions: int = 512) -> Path:
    """Write the model and its manifest; returns the manifest's path."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": 261, "max_position_embeddings": positions, "initializer_range": 0.2}
    model = Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    Manifest.of_folder(folder, [path.name for path in folder.iterdir()], {}).write(folder)
    return folder / "manifest.json"


def cpu_engine(folder: Path) -> TransformersEngine:
    """The engine in float32 on the CPU."""
    from ptqflow.engines.transformers_engine import load

    return load(folder, Device("cpu", torch.device("cpu"), torch.float32))
