"""Log-likelihoods of choices against those of lm-evaluation-harness (its own HFLM class): one table, in Markdown.

Usage: PTQFLOW_DATA=FOLDER python benchmarks/peer_lm_eval.py [ITEMS]; needs the data sets in the hub's layout, and `pip install
lm-eval`. Random Llamas of float32 with three kinds of tokenizers, trained on WikiText: byte-level BPE (Qwen, Llama 3), BPE with a
prepended boundary (SentencePiece's, Llama 2) and Unigram with one. Both sides get the same contexts and continuations. Columns:
largest difference in nats of one alternative and the verdicts (the choice of the highest sum) that differ, of ptqflow; and of
continuations that are tokenized apart from their contexts, as a plain implementation would.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from ptqflow.devices.device import Device
from ptqflow.engines.transformers_engine import load
from ptqflow.evaluation.benchmark import load_items
from ptqflow.evaluation.items import ChoiceItem
from ptqflow.evaluation.requests.choices import Protocol, generate
from ptqflow.sources import Source
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

TASKS = {
    "piqa": ("piqa", None, "validation"),
    "winogrande": ("winogrande", None, "validation"),
    "arc": ("ai2_arc", "ARC-Easy", "test"),
    "hellaswag": ("hellaswag", None, "validation"),
    "lambada": ("lambada_openai", None, "test"),
}
KINDS = ("byte-level", "Metaspace", "Unigram")
BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"
VOCABULARY = 4000


def tokenizer(kind: str, texts: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind, trained on texts, that puts BOS before a text."""
    special = [UNKNOWN, BOS, EOS]
    if kind == "Unigram":
        found = Tokenizer(models.Unigram())
        trainer: Any = trainers.UnigramTrainer(vocab_size=VOCABULARY, special_tokens=special, unk_token=UNKNOWN)
    else:
        found = Tokenizer(models.BPE(unk_token=UNKNOWN, byte_fallback=kind == "Metaspace"))
        alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "byte-level" else []
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    byte_level = kind == "byte-level"
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False) if byte_level else pre_tokenizers.Metaspace()
    found.decoder = decoders.ByteLevel() if byte_level else decoders.Metaspace()
    found.train_from_iterator(texts, trainer)
    if kind == "Metaspace":  # as Llama 2's is converted: a boundary before every text, also before one that starts with a space
        found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        found.pre_tokenizer = None  # type: ignore[assignment]
    found.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=found, bos_token=BOS, eos_token=EOS, unk_token=UNKNOWN)


def model(folder: Path, words: PreTrainedTokenizerFast) -> Path:
    """A random Llama whose next-token distributions are far from flat, with a tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "vocab_size": len(words),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        **{"max_position_embeddings": 2048, "initializer_range": 0.3},
    )
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def theirs(peer: HFLM, items: list[ChoiceItem]) -> list[list[float]]:
    """lm-evaluation-harness's log-likelihoods of each item's alternatives."""
    requests = [Instance("loglikelihood", {}, pair, 0) for item in items for pair in item.alternatives]
    found = iter(peer.loglikelihood(requests, disable_tqdm=True))
    return [[next(found)[0] for _ in item.alternatives] for item in items]


def apart(engine: Any, items: list[ChoiceItem], bos: bool) -> list[list[float]]:
    """Log-likelihoods of continuations that are tokenized without their contexts."""

    def ids(text: str, special: bool) -> list[int]:
        return list(engine.tokenizer(text, add_special_tokens=special).input_ids)

    pairs = [(ids(context, bos), ids(continuation, False)) for item in items for context, continuation in item.alternatives]
    asked = engine.loglikelihoods([c for c, _ in pairs], [c for _, c in pairs], 16)
    found = {pair: likelihood.logprob for batch in asked for pair, likelihood in batch.items()}
    pair = iter(range(len(pairs)))
    return [[found[next(pair)] for _ in item.alternatives] for item in items]


def difference(mine: list[list[float]], others: list[list[float]]) -> str:
    """The largest difference of an alternative, and how many verdicts differ."""
    largest = max(abs(a - b) for one, two in zip(mine, others, strict=True) for a, b in zip(one, two, strict=True))
    differ = sum(one.index(max(one)) != two.index(max(two)) for one, two in zip(mine, others, strict=True))
    return f"{largest:{'.1g' if largest < 0.1 else '.1f'}} | {differ} of {len(mine)}"


def main() -> None:
    """Print the table."""
    root, limit = Path(os.environ["PTQFLOW_DATA"]), int(sys.argv[1]) if len(sys.argv) > 1 else 100
    text = load_items("text", "wikitext", Source(path=str(root / "wikitext"), subset="wikitext-2-raw-v1", split="test"))
    tasks = {
        name: load_items(name, name, Source(path=str(root / folder), subset=subset, split=split))[:limit]
        for name, (folder, subset, split) in TASKS.items()
    }
    print("| tokenizer | BOS | alternatives | nats | verdicts that differ | apart: nats | verdicts that differ |")
    print("|---|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as work:
        for kind in KINDS:
            folder = model(Path(work) / kind, tokenizer(kind, [item.text for item in text]))
            engine = load(folder, Device("cpu", torch.device("cpu"), torch.float32))
            for bos in (False, True):
                peer = HFLM(str(folder), device="cpu", dtype="float32", batch_size=16, add_bos_token=bos)
                expected, mine, separate = [], [], []
                for name, items in tasks.items():
                    expected += theirs(peer, items)
                    mine += [row["choice_logprobs"] for row in generate(name, items, engine, Protocol(bos=bos), 0, 16)]
                    separate += apart(engine, items, bos)
                row = [kind, "yes" if bos else "no", str(sum(map(len, expected)))]
                print("|", " | ".join([*row, difference(mine, expected), difference(separate, expected)]), "|", flush=True)


if __name__ == "__main__":
    main()
