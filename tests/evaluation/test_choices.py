"""Multiple choice: log-likelihoods equal a direct computation, tokens are lm-eval's, and what is no number is no choice."""

import math
from pathlib import Path

import pytest
import torch
from ptqflow.errors import ConfigError
from ptqflow.evaluation.items import ChoiceItem
from ptqflow.evaluation.requests.choices import Protocol, _row, beginning, encode, generate
from ptqflow.evaluation.scoring.choices import Metric, score
from talking_models import cpu_engine, talking_model

ITEMS = [
    ChoiceItem(f"i{n}", (f"Question: what is {n}?\nAnswer:",), (" one", " two or three", " four!", " f" * (n + 1)), n % 4)
    for n in (2, 0, 1)
]
PARTIAL = [ChoiceItem("w", ("Ann thanked Bo because Ann", "Ann thanked Bo because Bo"), (" had helped.",), 1)]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_model(tmp_path_factory.mktemp("model"))


def direct(engine, context: str, continuation: str, *, bos: bool) -> tuple[float, bool]:
    """Sum of log p over the continuation's tokens after its context, and whether greedy decoding produces them."""
    before = engine.tokenizer(context, add_special_tokens=bos).input_ids
    after = engine.tokenizer(continuation, add_special_tokens=False).input_ids
    with torch.no_grad():
        logprobs = engine.model(torch.tensor([before + after])).logits[0].log_softmax(-1)[len(before) - 1 : -1]
    return logprobs[range(len(after)), after].sum().item(), logprobs.argmax(-1).tolist() == after


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("items", [ITEMS, PARTIAL], ids=["one context", "partial evaluation"])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_logprobs_equal_a_direct_computation(manifest: Path, items: list[ChoiceItem], bos: bool, batch_size: int) -> None:
    engine = cpu_engine(manifest.parent)
    rows = generate("t", items, engine, Protocol(bos=bos), 3, batch_size)
    assert [row["item"] for row in rows] == [item.id for item in items]
    for item, row in zip(items, rows, strict=True):
        expected = [direct(engine, *pair, bos=bos) for pair in item.alternatives]
        assert row["choice_logprobs"] == pytest.approx([logprob for logprob, _ in expected], rel=1e-5)
        assert row["choice_greedy"] == [greedy for _, greedy in expected]
        assert row["choice_tokens"] == [len(continuation) for _, continuation in item.alternatives]
        verdict = score(row, Metric())
        assert verdict.extracted == str(max(range(len(expected)), key=lambda i: expected[i][0]))
        assert verdict.correct == (verdict.extracted == row["gold"] == str(item.gold))


def test_lengths_are_without_the_joining_space_and_in_their_units(manifest: Path) -> None:
    item = ChoiceItem("i", ("Question: q\nAnswer:",), (" é", " abc"), 0)
    (row,) = generate("t", [item], cpu_engine(manifest.parent), Protocol(), 0, 1)
    assert (row["choice_characters"], row["choice_bytes"], row["choice_tokens"]) == ([1, 3], [2, 3], [3, 4])


@pytest.mark.parametrize(
    ("logprobs", "normalization", "extracted"),
    [
        ([-4.0, -10.5], "none", "0"),
        ([-4.0, -10.5], "characters", "0"),  # -2 and -2.1 a character; with their spaces, -1.33 and -1.75
        ([-4.2, -10.0], "characters", "1"),  # -2.1 and -2; with their spaces, -1.4 and -1.67
        ([-4.0, -10.0], "characters", "0"),  # equal: the first, as argmax
        ([-4.2, -9.0], "tokens", "1"),  # -2.1 and -1.8
        ([-6.0, -9.0], "bytes", "1"),  # -3 and -1.8
        ([math.nan, math.nan], "none", None),
        ([-1.0, math.nan], "none", None),
        ([-math.inf, -math.inf], "none", None),
        ([-math.inf, -2.0], "characters", "1"),
    ],
)
def test_choice_is_lm_evals_and_none_of_what_is_no_number(
    logprobs: list[float], normalization: str, extracted: str | None
) -> None:
    item = ChoiceItem("i", ("Question: q\nAnswer:",), (" ab", " abcde"), 0)
    pairs = [([1, 2], [3, 4]), ([1, 2], [3, 4, 5, 6, 7])]
    row = _row(item, pairs, [{"logprob": logprob, "greedy": False, "seconds": 0.1} for logprob in logprobs])
    verdict = score(row, Metric(normalization=normalization))  # type: ignore[arg-type]
    assert (verdict.extracted, row["prompt_tokens"], row["completion_tokens"]) == (extracted, 2, 7)
    assert (verdict.correct is None) == (verdict.unscored is not None) == (extracted is None)


def test_single_alternative_is_right_when_greedy_decoding_hits_it(manifest: Path) -> None:
    engine = cpu_engine(manifest.parent)
    context = "The last word is"
    with torch.no_grad():
        ids = engine.tokenizer(context, add_special_tokens=False).input_ids
        best = engine.model(torch.tensor([ids])).logits[0, -1].argmax().item()
    word = engine.tokenizer.decode([best])
    items = [ChoiceItem("hit", (context,), (word,), 0), ChoiceItem("miss", (context,), (" xyz",), 0)]
    hit, miss = (score(row, Metric()) for row in generate("t", items, engine, Protocol(), 0, 8))
    assert direct(engine, context, word, bos=False)[1] == hit.correct
    assert (miss.extracted, miss.correct) == (None, False)


def test_bfloat16_logits_are_summed_in_float32(manifest: Path) -> None:
    engine = cpu_engine(manifest.parent)
    engine.model.to(torch.bfloat16)
    row = generate("t", ITEMS, engine, Protocol(), 0, 64)[0]
    assert any(torch.tensor(x).bfloat16().item() != pytest.approx(x, rel=1e-6) for x in row["choice_logprobs"])


def test_item_longer_than_the_model_is_refused_not_cut(manifest: Path) -> None:
    item = ChoiceItem("long", ("x" * 600,), (" a", " b"), 0)
    with pytest.raises(ConfigError, match="exceeds the model's 512 positions"):
        generate("t", [item], cpu_engine(manifest.parent), Protocol(), 0, 8)


TEXTS = ["Question: why?", "Answer: two three", "the cat sat on the mat", "because Ann had helped.", "why not two"] * 4


def tokenizer(kind: str, bos: bool):
    """A trained tokenizer of a family: byte-level BPE, Metaspace BPE that prepends a word boundary (Llama 2), Unigram (XGLM)."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    if kind == "byte-level":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    else:
        model = models.Unigram() if kind == "unigram" else models.BPE(unk_token="<unk>")
        made = Tokenizer(model)
        made.decoder = decoders.Metaspace()
        if kind == "unigram":
            made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        else:  # as in Llama 2's tokenizer.json
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # its merges cross no word
        trainer = (
            trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
            if kind == "unigram"
            else trainers.BpeTrainer(vocab_size=80, special_tokens=special, show_progress=False)
        )
    made.train_from_iterator(TEXTS, trainer)
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>" if kind == "unigram" else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def lm_eval(made, context: str, continuation: str, *, bos: bool) -> tuple[list[int], list[int]]:
    """lm-eval 0.4.9.1's TemplateLM._encode_pair, with its `add_bos_token` (which it applies through the tokenizer)."""
    spaces = len(context) - len(context.rstrip())
    if spaces > 0:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    first = [made.bos_token_id] if bos else []
    whole = first + made(context + continuation, add_special_tokens=False).input_ids
    before = first + made(context, add_special_tokens=False).input_ids
    return before, whole[len(before) :]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", ["byte-level", "metaspace", "unigram"])
def test_tokens_are_lm_evals(kind: str, bos: bool) -> None:
    made = tokenizer(kind, bos)
    first = beginning(made)
    assert first == ([made.bos_token_id] if bos else [])
    for context, continuation in [
        ("Question: why?", " two three"),
        ("Ann thanked Bo because Ann", " had helped."),
        ("the cat sat ", "on the mat"),
        ("the cat sat  ", " on"),
    ]:
        before, after = encode(made, context, continuation, first)
        assert (before, after) == lm_eval(made, context, continuation, bos=bos)
        assert made.eos_token_id not in before + after
        assert before + after == [*first, *made(context + continuation, add_special_tokens=False).input_ids]


def test_a_word_boundary_is_not_doubled_where_context_and_continuation_meet() -> None:
    """Tokenized apart, a tokenizer that prepends a boundary begins the continuation with one more."""
    made = tokenizer("metaspace", bos=False)
    _, after = encode(made, "Ann had", " helped.", [])
    apart = made(" helped.", add_special_tokens=False).input_ids
    assert "".join(made.convert_ids_to_tokens(apart)) == "▁▁helped."
    assert "".join(made.convert_ids_to_tokens(after)) == "▁helped."


def test_an_empty_context_is_bos_and_a_swallowed_continuation_the_last_token() -> None:
    made = tokenizer("byte-level", bos=False)
    assert encode(made, "", "why", [])[0] == [made.bos_token_id]
    assert encode(made, "   ", "why", []) == encode(made, "", "   why", [])
    with pytest.raises(ConfigError, match="has no tokens"):
        encode(made, "", "", [])
