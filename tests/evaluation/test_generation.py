"""Generation: a completion depends on its prompt and its seed, not on the company it keeps; and draws are exact."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.schemas import GENERATIONS, SAMPLES
from ptqflow.artifacts.tables import read_metadata, read_table
from ptqflow.chat import ChatSettings
from ptqflow.cli import main
from ptqflow.engines.protocol import Completion, Sampling
from ptqflow.engines.sampling import Sampler
from ptqflow.engines.transformers_engine import TransformersEngine, _stop_tokens
from ptqflow.errors import ConfigError
from ptqflow.evaluation.hashing import completion_seed
from ptqflow.evaluation.items import GenerationItem
from ptqflow.evaluation.requests.generation import Protocol, chat_prompt, generate
from ptqflow.evaluation.scoring.generation import Metric, score
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from talking_models import byte_tokenizer, cpu_engine, talking_model
from transformers import AddedToken

PROMPTS = [[1, *range(10, 10 + n)] for n in (3, 30, 11, 7, 50, 4, 19, 8)]
SEEDS = list(range(100, 100 + len(PROMPTS)))
SAMPLED = Sampling(max_new_tokens=40, temperature=1.0, top_p=0.95, top_k=50)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(manifest: Path) -> TransformersEngine:
    return cpu_engine(manifest.parent)


def completions(
    engine: TransformersEngine, which: list[int], batch_size: int = 8, sampling: Sampling = SAMPLED
) -> dict[int, Completion]:
    found = engine.generate([PROMPTS[i] for i in which], [SEEDS[i] for i in which], sampling, batch_size)
    return {which[index]: completion for index, completion in found}


def test_completion_is_the_same_alone_in_a_batch_and_in_any_order(engine: TransformersEngine) -> None:
    together = completions(engine, list(range(len(PROMPTS))))
    assert len({completion.tokens for completion in together.values()}) == len(PROMPTS)
    assert completions(engine, list(reversed(range(len(PROMPTS)))), batch_size=3) == together
    assert {i: completions(engine, [i])[i] for i in together} == together


def test_rows_that_go_on_are_not_changed_by_those_that_stopped(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many stop tokens, rows leave the batch one after the other: cache, mask and noise must follow those that stay."""
    monkeypatch.setattr(engine, "stop_tokens", frozenset(range(30, 45)))
    together = completions(engine, list(range(len(PROMPTS))))
    assert len({len(completion.tokens) for completion in together.values()}) > 4
    assert together == {i: completions(engine, [i])[i] for i in together}


def test_greedy_decoding_equals_transformers_generate(engine: TransformersEngine) -> None:
    ours = completions(engine, list(range(len(PROMPTS))), sampling=Sampling(max_new_tokens=25))
    for i, prompt in enumerate(PROMPTS):
        theirs = engine.model.generate(torch.tensor([prompt]), max_new_tokens=25, do_sample=False)[0, len(prompt) :]
        assert list(ours[i].tokens) == theirs.tolist()


def test_other_seed_gives_another_completion(engine: TransformersEngine) -> None:
    a, b = (next(engine.generate([PROMPTS[0]], [seed], SAMPLED, 1))[1] for seed in (1, 2))
    assert a != b


def test_rows_stop_at_their_stop_token_or_limit_and_count_it(engine: TransformersEngine) -> None:
    found = completions(engine, list(range(len(PROMPTS))), sampling=Sampling(max_new_tokens=200, temperature=1.5))
    assert {completion.finish_reason for completion in found.values()} == {"stop", "length"}
    for completion in found.values():
        stopped = completion.finish_reason == "stop"
        assert (completion.tokens[-1] == 2) == stopped
        assert 2 not in completion.tokens[:-1]
        assert stopped or len(completion.tokens) == 200


def test_a_completions_logprob_is_that_of_its_tokens_under_the_model(engine: TransformersEngine) -> None:
    """Of an independent pass over prompt and completion, whatever temperature and cuts the tokens were drawn with."""
    found = completions(engine, list(range(len(PROMPTS))), sampling=Sampling(200, temperature=1.5, top_p=0.98, top_k=250))
    assert {completion.finish_reason for completion in found.values()} == {"stop", "length"}
    for index, completion in found.items():
        prompt, said = PROMPTS[index], torch.tensor(completion.tokens)
        with torch.no_grad():
            logits = engine.model(torch.tensor([[*prompt, *completion.tokens]])).logits[0, len(prompt) - 1 : -1]
        expected = logits.double().log_softmax(-1).gather(-1, said[:, None]).sum().item()
        assert completion.logprob == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("configured", "own", "stop"), [([5, 7], 7, {5, 7}), (5, 9, {5, 9}), ([5, 7], None, {5, 7}), (None, 3, {3})]
)
def test_every_end_that_model_or_tokenizer_names_stops(configured: object, own: int | None, stop: set[int]) -> None:
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=configured))
    assert _stop_tokens(model, SimpleNamespace(eos_token_id=own)) == stop


def test_generation_ends_where_positions_end(engine: TransformersEngine) -> None:
    prompt = [5 + i % 200 for i in range(508)]
    (_, completion), *_ = engine.generate([prompt], [0], Sampling(max_new_tokens=100), 1)
    assert len(completion.tokens) <= 512 - 508
    with pytest.raises(ConfigError, match="leaves no room"):
        list(engine.generate([prompt + prompt[:4]], [0], Sampling(max_new_tokens=1), 1))


def probabilities(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """What is to be drawn: of the top_k likeliest, the fewest that hold top_p of their probability."""
    found = (logits.double() / sampling.temperature).softmax(-1)
    order, held, kept = found.argsort(descending=True)[: sampling.top_k or None], 0.0, []
    for token in order:
        if held < sampling.top_p:
            kept.append(token)
        held += (found[token] / found[order].sum()).item()
    held_by_kept = torch.zeros_like(found).index_fill(0, torch.stack(kept), 1) * found
    return held_by_kept / held_by_kept.sum()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(1, 1.0), Sampling(1, 0.6, 0.9), Sampling(1, 1.3, 1.0, 5), Sampling(1, 0.8, 0.7, 4), Sampling(1, 1.0, 1.0, 1)],
)
def test_draws_follow_the_softmax(sampling: Sampling) -> None:
    draws, logits = 20_000, torch.linspace(-3, 1, 12)
    expected = probabilities(logits, sampling)
    generators = [torch.Generator().manual_seed(seed) for seed in range(draws)]
    counts = torch.bincount(Sampler(sampling)(logits.expand(draws, -1), generators), minlength=12)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        assert chisquare(counts[possible].numpy(), draws * expected[possible].numpy()).pvalue > 0.001


def test_successive_draws_of_one_row_are_independent_of_rows_that_left() -> None:
    logits, sampler = torch.zeros(3, 50), Sampler(Sampling(1, 1.0))
    together, alone = ([torch.Generator().manual_seed(seed) for seed in seeds] for seeds in ([7, 8, 9], [9]))
    assert sampler(logits, together)[2] == sampler(logits[:1], alone)[0]
    assert sampler(logits[:1], together[2:])[0] == sampler(logits[:1], alone)[0]


def test_chat_prompt_has_one_bos_and_knows_that_thinking_began() -> None:
    tokens, thinking = chat_prompt(byte_tokenizer(), "Hello")
    assert tokens.count(1) == 1
    assert tokens[0] == 1
    assert thinking
    assert not chat_prompt(byte_tokenizer("{{ messages[0].content }}"), "Hello")[1]


@pytest.mark.parametrize(("end", "opens"), [("", False), ("<think>\n", True), ("<think>\n\n</think>\n\n", False)])
@pytest.mark.parametrize("asked", ["What is 1 + 1?", " What does <think> mean? "])
def test_thinking_is_begun_by_the_template_not_by_what_it_is_asked(end: str, opens: bool, asked: str) -> None:
    turns = "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}[assistant] "
    chat = ChatSettings(system="Think first, behind <think>.")
    assert chat_prompt(byte_tokenizer(turns + end), asked, chat=chat)[1] is opens


class Scripted:
    """An engine that says after thinking what it was asked, then the seed; last request first."""

    def __init__(self, special: bool) -> None:
        self.tokenizer = byte_tokenizer()
        marks = [AddedToken(mark, special=special) for mark in ("<think>", "</think>")]
        self.tokenizer.add_tokens(marks, special_tokens=special)
        self.vocab_size = len(self.tokenizer)

    def generate(self, prompts, seeds, sampling, batch_size, skip):
        for index in reversed(range(len(prompts))):
            asked = self.tokenizer.decode(prompts[index]).partition("<user>")[2].partition("\n")[0]
            said = f"is it 5?</think>\\boxed{{{asked}}} by {seeds[index]}<eos>"
            tokens = tuple(self.tokenizer(said, add_special_tokens=False).input_ids)
            yield index, Completion(tokens, "stop" if asked != "3" else "length", -1.5)


@pytest.mark.parametrize("special", [False, True], ids=["plain marks", "special marks"])
def test_each_completion_is_read_after_its_thinking_and_scored_against_its_own_item(special: bool) -> None:
    items = [GenerationItem(f"i{n}", str(n), str(n)) for n in (3, 1, 2)] + [GenerationItem("wrong", "8", "9")]
    rows = generate("t", items, Scripted(special), Protocol(completions=2, temperature=1), 7, 8)
    assert sorted((row["item"], row["completion"]) for row in rows) == [
        (i, c) for i in ("i1", "i2", "i3", "wrong") for c in (0, 1)
    ]
    for row in rows:
        asked = next(item.problem for item in items if item.id == row["item"])
        seed = completion_seed(7, "t", row["item"], row["completion"])
        assert row["text"] == f"is it 5?</think>\\boxed{{{asked}}} by {seed}"
        verdict = score(row, Metric())
        assert (verdict.extracted, verdict.correct) == (asked, row["item"] != "wrong")
        assert row["finish_reason"] == ("length" if asked == "3" else "stop")


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no users here') }}", "{{ messages[0].missing.key }}", "{% for %}"],
    ids=["raises", "key", "syntax"],
)
def test_a_chat_template_that_fails_is_named_with_the_item(template: str) -> None:
    engine = SimpleNamespace(tokenizer=byte_tokenizer(template))
    with pytest.raises(ConfigError, match="task t, item i1: the model's chat template fails on it"):
        generate("t", [GenerationItem("i1", "Why?", "1")], engine, Protocol(), 0, 1)


def test_a_model_without_chat_template_is_refused() -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        chat_prompt(byte_tokenizer(None), "Hello")


PROBLEMS = [{"id": f"p{i}", "question": "q" * (1 + 7 * i % 5), "answer": str(i)} for i in (3, 1, 2, 0)]


def stages(manifest: Path, folder: Path, batch_size: int = 8, **protocol: object) -> tuple[int, Path, Path]:
    """Ask PROBLEMS and score the answers, through the command line; status, generations, samples."""
    folder.mkdir(exist_ok=True)
    data, generations, samples = folder.parent / "test.jsonl", folder / "generations.parquet", folder / "samples.parquet"
    data.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    settings = {"task": "sums", "benchmark": "problems", "source": {"path": str(data)}, "seed": 4, "batch_size": batch_size}
    options = ["--platform", "cpu", "--checkpoint", str(manifest), "--output", str(generations)]
    status = main(["generate", "--settings", json.dumps(settings | {"protocol": protocol}), *options])
    if status == 0:
        scorer = json.dumps({"benchmark": "problems"})
        status = main(["score", "--settings", scorer, "--generations", str(generations), "--output", str(samples)])
    return status, generations, samples


def test_stages_write_sorted_rows_that_limit_and_batch_size_do_not_change(manifest: Path, tmp_path: Path) -> None:
    asked = {"max_new_tokens": 12, "temperature": 1.0, "completions": 2}
    status, generations, samples = stages(manifest, tmp_path / "all", **asked)
    assert status == 0
    paths = generations, stages(manifest, tmp_path / "few", 1, limit=2, **asked)[1]
    everything, few = (read_table(path, GENERATIONS).drop_columns(["seconds"]).to_pylist() for path in paths)
    few = [row | {"logprob": pytest.approx(row["logprob"], rel=1e-5)} for row in few]
    assert [(row["item"], row["completion"]) for row in everything] == [(f"p{i}", c) for i in range(4) for c in range(2)]
    assert [row for row in everything if row["item"] in ("p1", "p3")] == few
    assert {row["finish_reason"] for row in everything} <= {"stop", "length"}
    assert all(len(row["tokens"]) == row["completion_tokens"] <= 12 and len(row["prompt_sha256"]) == 64 for row in everything)
    assert everything[0]["text"] != everything[1]["text"]
    scored = read_table(samples, SAMPLES).to_pylist()
    assert [(row["item"], row["completion"], row["gold"]) for row in scored] == [
        (row["item"], row["completion"], row["gold"]) for row in everything
    ]
    assert not any(row["correct"] is None for row in scored)
    assert [row["logprob"] for row in scored] == [row["logprob"] for row in everything]
    assert all(row["logprob"] < 0 for row in scored)
    metadata = read_metadata(samples)
    assert metadata["generated"] == read_metadata(generations)
    assert set(metadata["generated"]["inputs"]) == {"checkpoint", str(tmp_path / "test.jsonl")}
    assert metadata["generated"]["settings"]["engine"] == "transformers"


def test_answers_to_another_benchmark_are_not_scored(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, generations, samples = stages(manifest, tmp_path / "all", max_new_tokens=2)
    options = ["--generations", str(generations), "--output", str(samples)]
    assert main(["score", "--settings", json.dumps({"benchmark": "gsm8k"}), *options]) == 2
    assert "holds answers to problems, not to gsm8k" in capsys.readouterr().err


def collapsed_model(folder: Path) -> Path:
    """Finite weights, and logits that are not."""
    manifest = talking_model(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.norm.weight": weights["model.norm.weight"].fill_(3e38)}, folder / "model.safetensors")
    Manifest.of_folder(folder, Manifest.read(manifest).files, {}).write(folder)
    return manifest


def test_a_collapsed_model_generates_nothing_and_is_not_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, generations, samples = stages(collapsed_model(tmp_path / "model"), tmp_path / "out", max_new_tokens=4)
    assert status == 0
    assert {row["finish_reason"] for row in read_table(generations, GENERATIONS).to_pylist()} == {"not_finite"}
    scored = read_table(samples, SAMPLES).to_pylist()
    assert {(row["correct"], row["extracted"]) for row in scored} == {(None, None)}
    said = capsys.readouterr().err
    assert "sums: the model's logits are not finite in 4 of 4 rows" in said
    assert "4 of 4 rows have no verdict: the model's logits are not finite" in said


def test_a_row_whose_logits_are_no_numbers_leaves_the_others_alone(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = completions(engine, list(range(4)))
    forward = engine.model.forward

    def broken(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.logits[(kwargs["attention_mask"].sum(-1) == len(PROMPTS[2]) + 3)] = float("nan")
        return output

    monkeypatch.setattr(engine.model, "forward", broken)
    together = completions(engine, list(range(4)))
    assert together[2] == Completion(alone[2].tokens[:3], "not_finite", 0.0)
    assert alone[2].logprob < together[2].logprob < 0
    assert together[0] == alone[0] or together[0].finish_reason == "not_finite"
    assert together[1] == alone[1]


def test_stage_refuses_a_changed_checkpoint(tmp_path: Path) -> None:
    manifest = talking_model(tmp_path / "model")
    with (tmp_path / "model/config.json").open("a") as file:
        file.write(" ")
    status, generations, _ = stages(manifest, tmp_path / "out")
    assert status == 2
    assert not generations.exists()
