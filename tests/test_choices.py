"""Multiple choice through lighteval equals log-likelihoods computed directly."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ptqflow.errors import ConfigError
from ptqflow.evaluation.choices import _row, evaluate
from ptqflow.evaluation.items import ChoiceItem
from ptqflow.evaluation.tasks import TaskConfig
from ptqflow.sources import Source
from talking_models import cpu_engine, talking_model

ITEMS = [
    ChoiceItem(f"i{n}", (f"Question: what is {n}?\nAnswer:",), (" one", " two or three", " four!", " f" * (n + 1)), n % 4)
    for n in (2, 0, 1)
]
PARTIAL = [ChoiceItem("w", ("Ann thanked Bo because Ann", "Ann thanked Bo because Bo"), (" had helped.",), 1)]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_model(tmp_path_factory.mktemp("model"))


def task(normalization: str = "none") -> TaskConfig:
    return TaskConfig(benchmark="choices", source=Source(path="x"), normalization=normalization)  # type: ignore[arg-type]


def direct(engine, context: str, continuation: str) -> tuple[float, bool]:
    """Sum of log p over the continuation's tokens after BOS and context, and whether greedy decoding produces them."""
    before = engine.tokenizer(context).input_ids
    after = engine.tokenizer(continuation, add_special_tokens=False).input_ids
    with torch.no_grad():
        logprobs = engine.model(torch.tensor([before + after])).logits[0].log_softmax(-1)[len(before) - 1 : -1]
    return logprobs[range(len(after)), after].sum().item(), logprobs.argmax(-1).tolist() == after


@pytest.mark.parametrize("items", [ITEMS, PARTIAL], ids=["one context", "partial evaluation"])
def test_logprobs_equal_a_direct_computation(manifest: Path, items: list[ChoiceItem]) -> None:
    engine = cpu_engine(manifest.parent)
    rows = evaluate("t", task(), items, engine, seed=3, batch_size=64)
    assert [row["item"] for row in rows] == [item.id for item in items]
    for item, row in zip(items, rows, strict=True):
        expected = [direct(engine, *pair)[0] for pair in item.alternatives]
        assert row["choice_logprobs"] == pytest.approx(expected, rel=1e-5)
        assert row["extracted"] == str(expected.index(max(expected)))
        assert row["correct"] == (row["extracted"] == row["gold"] == str(item.gold))


def test_normalized_choice_divides_by_characters_without_the_joining_space(manifest: Path) -> None:
    engine = cpu_engine(manifest.parent)
    for row in evaluate("t", task("characters"), ITEMS, engine, seed=0, batch_size=1):
        item = next(item for item in ITEMS if item.id == row["item"])
        choices = [text[1:] for text in item.continuations]
        scores = [logprob / len(text) for logprob, text in zip(row["choice_logprobs"], choices, strict=True)]
        assert row["extracted"] == str(scores.index(max(scores)))


@pytest.mark.parametrize(
    ("logprobs", "normalization", "extracted"),
    [
        ([-4.0, -10.5], "none", "0"),
        ([-4.0, -10.5], "characters", "0"),  # -2 and -2.1 a character; with their spaces, -1.33 and -1.75
        ([-4.2, -10.0], "characters", "1"),  # -2.1 and -2; with their spaces, -1.4 and -1.67
        ([-4.0, -10.0], "characters", "0"),  # equal: the first, as argmax
        ([math.nan, math.nan], "none", None),
    ],
)
def test_choice_is_lm_evals_and_none_of_what_is_no_number(
    logprobs: list[float], normalization: str, extracted: str | None
) -> None:
    response = SimpleNamespace(logprobs=logprobs, input_tokens=[1, 2], output_tokens=[[3, -1], [4, 5]])
    item = ChoiceItem("i", ("Question: q\nAnswer:",), (" ab", " abcde"), 0)
    row = _row(item, [response], normalization == "characters")
    assert (row["extracted"], row["completion_tokens"]) == (extracted, 3)


def test_single_alternative_is_right_when_greedy_decoding_hits_it(manifest: Path) -> None:
    engine = cpu_engine(manifest.parent)
    context = "The last word is"
    with torch.no_grad():
        best = engine.model(torch.tensor([engine.tokenizer(context).input_ids])).logits[0, -1].argmax().item()
    word = engine.tokenizer.decode([best])
    items = [ChoiceItem("hit", (context,), (word,), 0), ChoiceItem("miss", (context,), (" xyz",), 0)]
    hit, miss = evaluate("t", task(), items, engine, seed=0, batch_size=8)
    assert direct(engine, context, word)[1] == hit["correct"]
    assert (miss["extracted"], miss["correct"]) == (None, False)


def test_nothing_is_left_behind(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(manifest.parent.rglob("*"))
    engine = cpu_engine(manifest.parent)
    first = evaluate("t", task(), ITEMS, engine, seed=0, batch_size=64)
    from lighteval.tasks.registry import Registry

    assert Registry._load_from_files.__qualname__ == "Registry._load_from_files"
    assert sorted(manifest.parent.rglob("*")) == before
    assert list(tmp_path.rglob("*")) == []
    assert torch.is_grad_enabled()
    assert not engine.model.get_output_embeddings()._forward_hooks
    # The same name with other weights: lighteval's own cache would answer with the first model's numbers.
    with torch.no_grad():
        engine.model.model.norm.weight.mul_(0.5)
    assert evaluate("t", task(), ITEMS, engine, seed=0, batch_size=64)[0]["choice_logprobs"] != first[0]["choice_logprobs"]


def test_bfloat16_logits_are_summed_in_float32(manifest: Path) -> None:
    engine = cpu_engine(manifest.parent)
    engine.model.to(torch.bfloat16)
    row = evaluate("t", task(), ITEMS, engine, seed=0, batch_size=64)[0]
    assert any(torch.tensor(x).bfloat16().item() != pytest.approx(x, rel=1e-6) for x in row["choice_logprobs"])


def test_item_longer_than_the_model_is_refused_not_cut(manifest: Path) -> None:
    item = ChoiceItem("long", ("x" * 600,), (" a", " b"), 0)
    with pytest.raises(ConfigError, match="exceeds the model's 512 positions"):
        evaluate("t", task(), [item], cpu_engine(manifest.parent), seed=0, batch_size=8)
