"""A byte-level BPE tokenizer of the demo world, with single-token digits and DeepSeek-R1's chat roles."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<|begin_of_sentence|>", "<|end_of_sentence|>", "<|pad|>"
USER, ASSISTANT = "<|User|>", "<|Assistant|>"
THINK, END_THINK = "<think>", "</think>"
SPECIAL = [PAD, BOS, EOS, USER, ASSISTANT]

# How transformers' Qwen2Tokenizer splits text before it merges bytes.
QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# As in DeepSeek-R1: the generation prompt opens the thinking section, and thoughts of earlier turns are dropped.
CHAT_TEMPLATE = (
    "{{- bos_token -}}\n"
    "{%- for message in messages -%}\n"
    "  {%- set content = message['content'] -%}\n"
    "  {%- if message['role'] == 'system' -%}\n"
    "    {{- content -}}\n"
    "  {%- elif message['role'] == 'user' -%}\n"
    "    {{- '<|User|>' + content -}}\n"
    "  {%- elif message['role'] == 'assistant' -%}\n"
    "    {%- if not loop.last and '</think>' in content -%}\n"
    "      {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}\n"
    "    {%- endif -%}\n"
    "    {{- '<|Assistant|>' + content + eos_token -}}\n"
    "  {%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "  {{- '<|Assistant|><think>\\n' -}}\n"
    "{%- endif -%}\n"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Learn `vocab_size` tokens from `texts`. No BOS is added by itself: the chat template writes it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # Thinking marks are tokens of their own but not "special": they survive skip_special_tokens, as in DeepSeek-R1.
    marks = [AddedToken(mark, special=False, normalized=False) for mark in (THINK, END_THINK)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(marks),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(marks)
    # transformers 5 loads whatever tokenizer a Qwen2 model has as Qwen2Tokenizer, with that class's own splitting. It gives the
    # same tokens on our texts; the file states it too, so that every loader agrees on every text.
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"the texts yield {tokenizer.get_vocab_size()} tokens, not {vocab_size}; give more texts")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=PAD,  # never needed; without it Qwen2Tokenizer adds a token that the model does not have
        padding_side="left",
        model_max_length=max_length,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
