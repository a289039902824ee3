"""What is asked of all, FOLDER/asked.json: tasks, texts, models with several kinds of tokenizers, and pairs of answers."""

import json
from pathlib import Path
from typing import Any

import real_tasks
import torch
from answer_pairs import RIGHT, WRONG, pairs
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "resources/demo-model"
# By lm-evaluation-harness's names: where its definition lies, and the metric that is compared.
TASKS = {
    "hellaswag": ("hellaswag/hellaswag.yaml", "acc_norm"),
    "arc_easy": ("arc/arc_easy.yaml", "acc_norm"),
    "arc_challenge": ("arc/arc_challenge.yaml", "acc_norm"),
    "piqa": ("piqa/piqa.yaml", "acc_norm"),
    "winogrande": ("winogrande/default.yaml", "acc"),
    "lambada_openai": ("lambada/lambada_openai.yaml", "acc"),
}
BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"
VOCABULARY = 4000


def listed(task: str) -> tuple[str, str, str | None, str]:
    """What `real_tasks` says of a task of lm-evaluation-harness."""
    return real_tasks.TASKS[task.removesuffix("_openai").replace("_", "-")]


def tasks(root: Path) -> dict[str, dict[str, Any]]:
    """The tasks whose rows are below `root`."""
    keys = ("definition", "metric", "benchmark", "path", "subset", "split")
    found = {name: dict(zip(keys, (*entry, *listed(name)), strict=True)) for name, entry in TASKS.items()}
    found = {name: task | {"path": str(root / str(task["path"]))} for name, task in found.items()}
    return {name: task for name, task in found.items() if list(Path(str(task["path"])).rglob(f"{task['split']}*.parquet"))}


def texts(root: Path, windows: int) -> dict[str, dict[str, Any]]:
    """The demo's text, and WikiText-2 where it is below `root`."""
    found = {"demo text": {"benchmark": "text", "file": str(REPOSITORY / "resources/tasks/text/test.jsonl")}}
    if real := sorted((root / "wikitext").rglob("test-*.parquet")):
        found["wikitext"] = {"benchmark": "wikitext", "file": str(real[0])}
    return {name: entry | {"window": 512, "windows": windows} for name, entry in found.items()}


def answers(root: Path) -> list[dict[str, Any]]:
    """Pairs of a gold answer and a completion: the repository's, and those beside the data sets where they are at hand."""
    found = [
        {"gold": gold, "completion": f"$\\boxed{{{answer}}}$", "thinking": False, "truncated": False}
        for text in (RIGHT, WRONG)
        for gold, answer in pairs(text)
    ]
    if (file := root.parent / "answers/pairs.jsonl").is_file():
        keys = ("gold", "completion", "thinking", "truncated")
        found += [{key: json.loads(line)[key] for key in keys} for line in file.read_text().splitlines()]
    return found


def tokenizer(kind: str, corpus: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with SentencePiece's word boundaries, trained on texts, that puts BOS before a text."""
    special = [UNKNOWN, BOS, EOS]
    if kind == "Unigram":
        found = Tokenizer(models.Unigram())
        trainer: Any = trainers.UnigramTrainer(vocab_size=VOCABULARY, special_tokens=special, unk_token=UNKNOWN)
    else:
        found = Tokenizer(models.BPE(unk_token=UNKNOWN, byte_fallback=True))
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special)
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Metaspace()
    found.train_from_iterator(corpus, trainer)
    if kind == "Metaspace":  # as Llama 2's is converted: a boundary before every text, also before one that starts with a space
        found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        found.pre_tokenizer = None  # type: ignore[assignment]
    found.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=found, bos_token=BOS, eos_token=EOS, unk_token=UNKNOWN)


def random_model(folder: Path, config: type, words: Any, **shape: int) -> dict[str, Any]:
    """Write a random float32 model whose next-token distributions are far from flat, with a tokenizer."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4} | shape
    made = config(vocab_size=len(words), max_position_embeddings=2048, initializer_range=0.1, **sizes)
    AutoModelForCausalLM.from_config(made).float().save_pretrained(folder)
    words.save_pretrained(folder)
    return {"folder": str(folder), "bos": False, "tokenizer_alone": False}


def write(folder: Path, root: Path, items: int) -> dict[str, Any]:
    """Make the models and write the questions about the first `items` of each task; returns them."""
    demo = AutoTokenizer.from_pretrained(DEMO)
    text = (REPOSITORY / "resources/tasks/text/test.jsonl").read_text().splitlines()
    corpus = [json.loads(line)["text"] for line in text]
    asked: dict[str, Any] = {
        "models": {
            "demo": {"folder": str(DEMO), "bos": False, "tokenizer_alone": False},
            "random Qwen2": random_model(folder / "qwen2", Qwen2Config, demo, num_key_value_heads=2),
        },
        "items": items,
        "tasks": tasks(root),
        "texts": texts(root, 32),
        "pairs": answers(root),
    }
    for kind in ("Metaspace", "Unigram"):
        found = random_model(folder / kind, LlamaConfig, tokenizer(kind, corpus)) | {"tokenizer_alone": True}
        asked["models"] |= {f"random Llama, {kind}": found, f"random Llama, {kind}, BOS": found | {"bos": True}}
    (folder / "asked.json").write_text(json.dumps(asked))
    return asked
