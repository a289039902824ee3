"""Few-shot: examples stand before an item as lm-eval 0.4.13 puts them (`first_n`), never the item itself, and are on record."""

import json
from pathlib import Path

import pytest
from checkout import SMALL_STUDY
from ptqflow.artifacts.hashing import sha256
from ptqflow.artifacts.schemas import GENERATIONS
from ptqflow.artifacts.tables import read_metadata, read_table
from ptqflow.checked import load
from ptqflow.cli import main
from ptqflow.errors import ArtifactError, PtqflowError
from ptqflow.evaluation.benchmark import load_items
from ptqflow.evaluation.fewshot import behind, examples
from ptqflow.evaluation.items import ChoiceItem
from ptqflow.evaluation.requests.choices import Protocol, generate
from ptqflow.jobs import Jobs
from ptqflow.published_names import published_names
from ptqflow.sources import Source
from talking_models import cpu_engine, talking_model

# Two rows of each benchmark, and what lm-eval 0.4.13 asks of the second behind the first (num_fewshot 1, sampler first_n).
ROWS = {
    "arc": [
        {"id": "a", "question": "Why?", "choices": {"text": ["x", "so"], "label": ["1", "2"]}, "answerKey": "2"},
        {"id": "b", "question": "How?", "choices": {"text": ["y", "z"], "label": ["A", "B"]}, "answerKey": "A"},
    ],
    "piqa": [{"goal": "Why?", "sol1": "so", "sol2": "x ", "label": 0}, {"goal": "How?", "sol1": "y", "sol2": "z", "label": 1}],
    "hellaswag": [
        {"activity_label": "Run", "ctx_a": "She ran.", "ctx_b": "he", "endings": ["sat.", "saw."], "label": "1"},
        {"activity_label": "Sit", "ctx_a": "He sat.", "ctx_b": "she", "endings": ["ran.", "slept."], "label": "0"},
    ],
    "winogrande": [
        {"sentence": "Ann saw Bo as _ was tall.", "option1": "Ann", "option2": "Bo", "answer": "2"},
        {"sentence": "Cy met Di since _ was near.", "option1": "Cy", "option2": "Di", "answer": "1"},
    ],
    "lambada": [{"text": "so they went home"}, {"text": "and there she slept"}],
}
ASKED = {
    "arc": [("Question: Why?\nAnswer: so\n\nQuestion: How?\nAnswer:", answer) for answer in (" y", " z")],
    "piqa": [("Question: Why?\nAnswer: so\n\nQuestion: How?\nAnswer:", answer) for answer in (" y", " z")],
    "hellaswag": [("Run: She ran. He saw.\n\nSit: He sat. She", ending) for ending in (" ran.", " slept.")],
    "winogrande": [(f"Ann saw Bo as Bo was tall.\n\nCy met Di since {name}", " was near.") for name in ("Cy", "Di")],
    "lambada": [("so they went  home\n\nand there she", " slept")],  # two spaces: its delimiter, and the word's own
}


def written(path: Path, rows: list[dict]) -> Source:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(path=str(path))


def choices(items: list) -> list[ChoiceItem]:
    return [item for item in items if isinstance(item, ChoiceItem)]


@pytest.mark.parametrize("benchmark", ROWS)
def test_an_item_stands_behind_its_examples_as_in_lm_eval(tmp_path: Path, benchmark: str) -> None:
    source = written(tmp_path / "rows.jsonl", ROWS[benchmark])
    shown = examples("task t", benchmark, source, 1)
    first, second = choices(behind(load_items("t", benchmark, source), shown, 1))
    assert list(second.alternatives) == ASKED[benchmark]
    assert shown[1].alternatives[shown[1].gold][1] in first.contexts[0], "the first item is behind the second example"


QUESTIONS = [{"id": i, "question": f"q{i}?", "choices": ["no", f"yes {i}"], "answer": 1} for i in range(5)]


def test_each_item_has_the_first_examples_that_are_not_itself_and_none_is_there_twice(tmp_path: Path) -> None:
    repeated = [QUESTIONS[0], QUESTIONS[1] | {"id": 90}, QUESTIONS[1] | {"id": 91}, QUESTIONS[2], QUESTIONS[3]]
    shown = examples("task t", "choices", written(tmp_path / "train.jsonl", repeated), 2)
    asked = behind(load_items("t", "choices", written(tmp_path / "test.jsonl", QUESTIONS)), shown, 2)
    numbers = [[int(part[0]) for part in item.contexts[0].split("q")[1:]] for item in choices(asked)]
    assert numbers == [[1, 2, 0], [0, 2, 1], [0, 1, 2], [0, 1, 3], [0, 1, 4]]


def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    source = written(tmp_path / "few.jsonl", QUESTIONS[:2])
    with pytest.raises(ArtifactError, match=r"task t: .*few\.jsonl holds 2 examples, not 3; lower num_fewshot"):
        examples("task t", "choices", source, 3)
    with pytest.raises(ArtifactError, match="item 0 is one of the 2 examples, and there is no other"):
        behind(load_items("t", "choices", source), examples("task t", "choices", source, 2), 2)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_model(tmp_path_factory.mktemp("model"))


def test_a_packed_row_says_behind_examples_what_a_row_of_its_own_says(tmp_path: Path, manifest: Path) -> None:
    source, engine = written(tmp_path / "rows.jsonl", QUESTIONS), cpu_engine(manifest.parent)
    items = choices(behind(load_items("t", "choices", source), examples("task t", "choices", source, 2), 2))
    alone, packed = (generate("t", items, engine, Protocol(), 0, batch) for batch in (1, 16))
    for one, other in zip(alone, packed, strict=True):
        assert one["choice_logprobs"] == pytest.approx(other["choice_logprobs"], rel=1e-5)
        assert one["prompt_sha256"] == other["prompt_sha256"]


def test_answers_record_the_examples_and_their_file(tmp_path: Path, manifest: Path) -> None:
    questions, train = written(tmp_path / "test.jsonl", QUESTIONS[:2]), written(tmp_path / "train.jsonl", QUESTIONS[2:])
    told = {}
    for shots in (0, 2):
        protocol = {"num_fewshot": 2, "examples": {"path": train.path}} if shots else {}
        settings = {"task": "t", "benchmark": "choices", "source": {"path": questions.path}, "protocol": protocol}
        output = tmp_path / f"{shots}.parquet"
        options = ["--platform", "cpu", "--checkpoint", str(manifest), "--output", str(output)]
        assert main(["generate", "--settings", json.dumps(settings), *options]) == 0
        told[shots] = read_metadata(output), read_table(output, GENERATIONS)["prompt_tokens"].to_pylist()
    recorded = told[2][0]["settings"]["protocol"]
    assert (recorded["num_fewshot"], recorded["examples"]["path"]) == (2, train.path)
    assert told[2][0]["inputs"][train.path] == sha256(train.path)
    assert train.path not in told[0][0]["inputs"]
    assert all(behind > alone for behind, alone in zip(told[2][1], told[0][1], strict=True))


def study(tmp_path: Path, **keys: object) -> Jobs:
    task = {"benchmark": "choices", "source": {"path": str(tmp_path / "test.jsonl")}, **keys}
    return Jobs(load({**SMALL_STUDY, "tasks": {"t": task}, "suites": {"s": {"tasks": ["t"]}}}))


def test_an_edited_example_asks_again_and_such_a_score_is_no_published_one(tmp_path: Path) -> None:
    written(tmp_path / "test.jsonl", QUESTIONS[:2])
    keys = {"num_fewshot": 2, "examples": {"path": written(tmp_path / "train.jsonl", QUESTIONS[2:]).path}}
    before, plain = study(tmp_path, **keys), study(tmp_path)
    sources = before.generate_source("t"), plain.generate_source("t")
    assert before.generate("demo", "transformers", "t", 0) != plain.generate("demo", "transformers", "t", 0)
    assert [list(published_names(jobs.study)["tasks"]) for jobs in (plain, before)] == [["t"], []]
    written(tmp_path / "train.jsonl", QUESTIONS[1:])
    assert (study(tmp_path, **keys).generate_source("t") != sources[0], study(tmp_path).generate_source("t")) == (
        True,
        sources[1],
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_fewshot": 2}, r"tasks\.t: num_fewshot and examples go together"),
        ({"examples": {"path": "train.jsonl"}}, r"tasks\.t: num_fewshot and examples go together"),
        ({"num_fewshot": -1}, r"tasks\.t\.num_fewshot"),
        ({"num_fewshot": 2, "examples": {"path": "nowhere"}}, r"tasks\.t\.examples: .*nowhere"),
        (
            {"num_fewshot": 4, "examples": {"path": "train.jsonl"}},
            r"tasks\.t\.examples: .* 3 examples, not 4; lower num_fewshot",
        ),
        ({"num_fewshot": 2, "examples": {"path": "odd.jsonl"}}, r"tasks\.t\.examples: .*is not a row of choices"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_any_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict, message: str
) -> None:
    model = Path(SMALL_STUDY["models"]["demo"]["source"]["path"]).parent.resolve()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resources").symlink_to(model)
    written(Path("test.jsonl"), QUESTIONS[:2])
    written(Path("train.jsonl"), QUESTIONS[2:])
    written(Path("odd.jsonl"), [{"question": "?"}])
    with pytest.raises(PtqflowError, match=message):
        study(tmp_path, **keys)
