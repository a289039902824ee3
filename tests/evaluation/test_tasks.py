"""Tasks and sources: what the configuration may say, and which code and rows it leads to."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkout import SMALL_STUDY
from ptqflow.artifacts.datasets import load_rows
from ptqflow.checked import load as load_study
from ptqflow.digest import closure
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.evaluation.benchmark import known_benchmarks, load, load_items
from ptqflow.evaluation.hashing import completion_seed
from ptqflow.evaluation.items import ChoiceItem, GenerationItem
from ptqflow.evaluation.tasks import generating, task
from ptqflow.sources import Source
from pydantic import ValidationError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("entry", "remedy"),
    [
        ({}, "exactly one of path"),
        ({"path": "a", "repo": "b", "revision": COMMIT}, "exactly one of path"),
        ({"repo": "org/name"}, "commit hash"),
        ({"repo": "org/name", "revision": "main"}, "40 hexadecimal digits"),
        ({"repo": "datasets/org/name", "revision": COMMIT}, "no repository of the model hub"),
        ({"path": "a", "splits": "test"}, "Extra inputs"),
    ],
)
def test_unpinned_or_ambiguous_source_is_refused(entry: dict, remedy: str) -> None:
    with pytest.raises(ValidationError, match=remedy):
        Source.model_validate(entry)


def test_a_repository_of_the_hub_may_have_no_organization() -> None:
    for repo in ("openai/gsm8k", "wikitext", "Org-1/name_2.5"):
        assert Source(repo=repo, revision=COMMIT).repo == repo


def test_every_layout_gives_the_same_rows(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": f"t{i}"} for i in range(5)]
    file = jsonl(tmp_path / "plain/test.jsonl", rows)
    for name in ("hub/data/test-00000-of-00001", "subset/main/test-00000-of-00001"):
        target = tmp_path / f"{name}.parquet"
        target.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), target)
    jsonl(tmp_path / "named/odd_name.jsonl", rows)
    sources = [
        Source(path=str(file)),
        Source(path=str(tmp_path / "plain")),
        Source(path=str(tmp_path / "hub"), split="test"),
        Source(path=str(tmp_path / "subset"), subset="main", split="test"),
        Source(path=str(tmp_path / "named"), file="odd_*.jsonl"),
    ]
    assert all(load_rows(source) == rows for source in sources)


def test_shards_are_read_in_name_order(tmp_path: Path) -> None:
    for shard in (1, 0):
        jsonl(tmp_path / f"data/train-0000{shard}-of-00002.jsonl", [{"id": shard}])
    assert load_rows(Source(path=str(tmp_path), split="train")) == [{"id": 0}, {"id": 1}]


def test_missing_or_broken_data_names_the_file_and_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_rows(Source(path=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigError, match="correct subset and split"):
        load_rows(Source(path=str(tmp_path), split="train"))
    (tmp_path / "test.jsonl").write_text("{not json\n")
    with pytest.raises(ArtifactError, match=r"test\.jsonl is not readable"):
        load_rows(Source(path=str(tmp_path)))
    (tmp_path / "rows.txt").write_text("a\n1\n")
    with pytest.raises(ConfigError, match="convert it"):
        load_rows(Source(path=str(tmp_path / "rows.txt")))


def test_own_keys_win_over_the_benchmarks_which_win_over_the_protocols() -> None:
    source = {"path": "x"}
    plain = task({"benchmark": "gsm8k", "source": source})
    assert plain.asks == {
        "protocol": "paper",
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 0,
        "max_new_tokens": 32768,
        "completions": 1,
    }
    assert plain.metric == {"scorer": "final"}
    demo = task({"benchmark": "problems", "source": source, "max_new_tokens": 7})
    assert (demo.asks["temperature"], demo.asks["max_new_tokens"]) == (0.0, 7)
    arc = task({"benchmark": "arc", "source": source})
    assert (arc.asks, arc.metric) == ({"bos": False, "num_fewshot": 0}, {"normalization": "characters"})
    assert task({"benchmark": "text", "source": source, "limit": 3}).asks == {"window": 2048, "limit": 3}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"benchmark": "gsm9k"}, "known benchmarks: aime, aime-120"),
        ({"benchmark": "gsm8k", "window": 2048}, "window means nothing to gsm8k, a generation benchmark; remove it"),
        ({"benchmark": "wikitext", "temperature": 0.6, "bos": True}, "temperature, bos means nothing to wikitext"),
        ({"benchmark": "arc", "scorer": "legacy"}, "scorer means nothing to arc, a choices benchmark"),
        ({"benchmark": "gsm8k", "limit": 0}, "limit"),
        ({"benchmark": "arc", "normalisation": "none"}, "normalisation"),
        ({}, "benchmark"),
        ({"benchmark": None}, "benchmark"),
        ({"benchmark": ["arc"]}, "benchmark"),
        ({"benchmark": "../tasks"}, "known benchmarks"),
    ],
)
def test_impossible_tasks_are_refused(entry: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        task({**entry, "source": {"path": "x"}})


def test_a_key_of_another_kind_is_named_as_it_is_written() -> None:
    entry = {"benchmark": "text", "source": {"path": "resources/tasks/text"}, "temperature": 1}
    with pytest.raises(ConfigError) as error:
        load_study({**SMALL_STUDY, "tasks": {"text": entry}})
    assert str(error.value) == "config.yaml: tasks.text: temperature means nothing to text, a perplexity benchmark; remove it"
    with pytest.raises(ConfigError, match=r"config\.yaml: tasks\.text\.windw: unknown key; did you mean 'window'\?"):
        load_study({**SMALL_STUDY, "tasks": {"text": {"benchmark": "text", "source": entry["source"], "windw": 1}}})


def test_what_asks_of_a_task_is_its_benchmarks_item_and_its_kind() -> None:
    entry = task({"benchmark": "math-500", "source": {"path": "x"}})
    assert generating(entry) == ["evaluation.benchmarks.math_500:item", "evaluation.requests.generation"]
    modules = [f"ptqflow.{name}" for name in (*generating(entry), "engines.transformers_engine")]
    reached = closure("ptqflow.stages.generate", *modules)
    assert {"ptqflow.modeling.fake_quant", "ptqflow.modeling.cache", "ptqflow.numerics.grid"} <= reached.keys()  # quantized ones
    assert not reached.keys() & {
        "ptqflow.evaluation.requests.choices",
        "ptqflow.evaluation.requests.perplexity",
        "ptqflow.evaluation.benchmarks.arc",
    }
    assert {"gsm8k", "problems", "choices", "text", "wikitext"} <= set(known_benchmarks())


def test_reading_the_configuration_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ptqflow.evaluation.tasks import task, generating; from ptqflow.stages.measure import Settings; "
        "generating(task({'benchmark': 'arc', 'source': {'path': 'x'}})); "
        "print({'torch', 'transformers', 'lighteval', 'pyarrow'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_limit_takes_the_first_items_in_file_order(tmp_path: Path) -> None:
    rows = [{"id": name, "question": "q", "answer": "1"} for name in "zyx"]
    source = Source(path=str(jsonl(tmp_path / "a.jsonl", rows)))
    assert [item.id for item in load_items("t", "problems", source, 2)] == ["z", "y"]


def test_a_row_without_a_column_is_refused_with_those_that_it_has(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("Question,answer\nHow many?,3\n")
    with pytest.raises(ArtifactError, match=r"it lacks 'id'; it has 'Question', 'answer'"):
        load_items("t", "problems", Source(path=str(tmp_path / "own.csv")))


def test_rows_of_another_benchmark_and_repeated_ids_are_refused(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"id": "a", "question": "q", "answer": "1"}] * 2)
    source = Source(path=str(file))
    with pytest.raises(ArtifactError, match=r"row 0 of .* is not a row of choices"):
        load_items("t", "choices", source)
    with pytest.raises(ArtifactError, match="ids repeat"):
        load_items("t", "problems", source)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ArtifactError, match=r"task t: .*empty\.jsonl holds no rows"):
        load_items("t", "text", Source(path=str(tmp_path / "empty.jsonl")))


def test_half_a_surrogate_pair_is_refused_by_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"id": "a", "question": "q", "answer": "1"}\n{"id": "b", "question": "\\ud83d", "answer": "1"}\n'
    )
    with pytest.raises(ArtifactError, match=r"row 1 of .*surrogates not allowed"):
        load_items("t", "problems", Source(path=str(tmp_path / "a.jsonl")))


QA = "Question: Why?\nAnswer:"
PROBLEM = {"problem": "1+1?", "answer": "2"}


@pytest.mark.parametrize(
    ("benchmark", "row", "item"),
    [
        (
            "arc",
            {"id": "q1", "question": "Why?", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "3"},
            ChoiceItem("q1", (QA,), (" a", " b", " c"), 2),
        ),
        ("piqa", {"goal": "Why?", "sol1": "a", "sol2": "b", "label": 1}, ChoiceItem("0004", (QA,), (" a", " b"), 1)),
        (
            "hellaswag",
            {
                "activity_label": "Run",
                "ctx_a": "She ran [title] Far.",
                "ctx_b": "he  saw",
                "endings": ["[x] it", "y"],
                "label": "1",
            },
            ChoiceItem("00004", ("Run: She ran. Far. He saw",), ("  it", " y"), 1),
        ),
        (
            "winogrande",
            {"sentence": "A saw B as _ was tall.", "option1": "A", "option2": "B", "answer": "1"},
            ChoiceItem("0004", ("A saw B as A", "A saw B as B"), (" was tall.",), 0),
        ),
        ("lambada", {"text": "so they went home"}, ChoiceItem("0004", ("so they went",), (" home",), 0, joint=" ")),
        (
            "choices",
            {"id": 7, "question": "Why?", "choices": ["a", "b"], "answer": 1},
            ChoiceItem("7", (QA,), (" a", " b"), 1),
        ),
        ("gsm8k", {"question": "q", "answer": "5 * 2 = 10\n#### 1,010"}, GenerationItem("0004", "q", "1010")),
        ("math-500", PROBLEM | {"unique_id": "test/algebra/5.json"}, GenerationItem("algebra/5", "1+1?", "2")),
        ("aime", {"ID": "2024-I-1", "Problem": "1+1?", "Answer": 2}, GenerationItem("2024-I-1", "1+1?", "2")),
        ("aime", PROBLEM, GenerationItem("04", "1+1?", "2")),
        ("problems", {"id": 3, "question": "q", "answer": 5}, GenerationItem("3", "q", "5")),
    ],
)
def test_a_row_becomes_the_item_of_its_protocol(benchmark: str, row: dict, item: ChoiceItem | GenerationItem) -> None:
    assert load(benchmark).item(row, 4) == item


@pytest.mark.parametrize(
    ("benchmark", "row"),
    [
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": -1}),
        ("winogrande", {"sentence": "A _ b.", "option1": "c", "option2": "d", "answer": "3"}),
        ("choices", {"id": "a", "question": "q", "choices": ["x", "y"], "answer": 2}),
        ("choices", {"id": "a", "question": "q", "choices": [], "answer": 0}),
        ("gsm8k", {"question": "q", "answer": None}),
    ],
)
def test_rows_whose_answer_is_hidden_or_impossible_are_refused(tmp_path: Path, benchmark: str, row: dict) -> None:
    """Test splits hide answers; scored, every item would be wrong."""
    source = Source(path=str(jsonl(tmp_path / "a.jsonl", [row])))
    with pytest.raises(ArtifactError, match=f"row 0 of .* is not a row of {benchmark}"):
        load_items("t", benchmark, source)


def test_alternatives_pair_contexts_with_continuations() -> None:
    assert ChoiceItem("i", ("c",), ("a", "b"), 0).alternatives == (("c", "a"), ("c", "b"))
    assert ChoiceItem("i", ("c", "d"), ("a",), 0).alternatives == (("c", "a"), ("d", "a"))


def test_completion_seeds_are_stable_and_distinct() -> None:
    assert completion_seed(0, "gsm8k", "0001", 0) == 8868386851176197024  # a published number depends on it
    seeds = {completion_seed(s, t, i, c) for s in range(3) for t in ("a", "b") for i in ("1", "2") for c in range(3)}
    assert len(seeds) == 36
    assert all(0 <= seed < 2**63 for seed in seeds)
