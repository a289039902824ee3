"""Published numbers: every row reads, what does not add up is found, noise is binomial, ours stand beside what is the same."""

import math
from copy import deepcopy
from pathlib import Path

import pytest
from checkout import REPOSITORY, SMALL_STUDY
from ptqflow.artifacts.evidence_schemas import PUBLISHED
from ptqflow.artifacts.tables import to_table
from ptqflow.checked import load
from ptqflow.errors import ArtifactError
from ptqflow.evaluation.tasks import task
from ptqflow.published_names import _task, published_names
from ptqflow.reporting import published
from ptqflow.reporting.published import Ours

FILES = sorted((REPOSITORY / "resources/reference").glob("*.csv"))
ROWS = [row for path in FILES for row in published.read(path)]
QWQ = {"models": {"qwq": "QwQ-32B"}, "recipes": {"four": "awq-w4a16"}, "tasks": {"aime": "aime-120"}}
SCORE = {"platform": "gpu", "form": "fake", "engine": "vllm", "items": 120, "seeds": 3, "score_low": 70.0, "score_high": 76.0}


def built(ours: dict | None = None, scores: tuple = ()) -> list[dict]:
    return published.build(ROWS, scores, Ours.model_validate(ours or {}))


def test_every_row_is_of_the_schema_and_names_its_source() -> None:
    assert len(FILES) == 6
    assert len(ROWS) > 800
    assert to_table(PUBLISHED, built()).num_rows == len(ROWS)
    assert all(row.source and row.model and row.recipe and row.task and row.metric for row in ROWS)
    keys = [(row.run, row.task, row.metric) for row in ROWS]
    assert len(set(keys)) == len(keys)


def test_the_papers_tables_are_whole() -> None:
    """Four models by eight methods by five tasks and their average; a spot check of each table."""
    reasoning = [row for row in ROWS if row.source == "arXiv 2602.17693" and row.table == "1"]
    assert len(reasoning) == 4 * 8 * 6
    found = {(row.table, row.model, row.recipe, row.task, row.note): row.value for row in ROWS if "2602.17693" in row.source}
    assert found["1", "QwQ-32B", "baseline", "average", ""] == "81.29"
    assert found["1", "DeepSeek-R1-Distill-Qwen-7B", "flatquant-w4a4kv4", "livecodebench-v4-v5", ""] == "2.24"
    assert found["2", "Llama-3-8B", "flatquant-w4a4kv4", "lambada", "default hyperparameters"] == "0.00"
    assert found["3", "DeepSeek-R1-Distill-Qwen-7B", "baseline", "wikitext", "seed 42"] == "26.01"


def test_averages_and_shares_that_cannot_be_are_found() -> None:
    said = {(row["model"], row["recipe"], row["task"]): row["note"] for row in built() if row["source"] == "arXiv 2602.17693"}
    assert said["QwQ-32B", "baseline", "average"] == "its 5 cells average 77.76, not 81.29"
    assert said["QwQ-32B", "awq-w3a16", "average"] == "its 5 cells average 73.26, not 73.56"
    assert said["DeepSeek-R1-Distill-Qwen-14B", "smoothquant-w8a8kv8", "average"] == "its 5 cells average 70.01, not 69.90"
    assert (
        said["DeepSeek-R1-Distill-Qwen-14B", "smoothquant-w8a8kv8", "gpqa-diamond"] == "56.67 % is no whole number of 198 items"
    )
    assert said["QwQ-32B", "flatquant-w8a8kv8", "livecodebench-v4-v5"] == "57.49 % is no whole number of 268 items"
    assert said["QwQ-32B", "gptq-w4a16", "average"] is None


def test_noise_is_that_of_two_binomial_runs() -> None:
    rows = {(row["model"], row["recipe"], row["task"]): row for row in built() if row["table"] == "1" and "2602" in row["source"]}
    small = rows["DeepSeek-R1-Distill-Qwen-7B", "awq-w4a16", "aime-120"]
    expected = 1.959964 * 100 * math.sqrt(sum((p := (x + 2) / 124) * (1 - p) / 124 for x in (58, 52)))
    assert small["drop"] == pytest.approx(5.0)
    assert small["noise"] == pytest.approx(expected, rel=1e-3)
    assert small["beyond_noise"] is False
    assert rows["DeepSeek-R1-Distill-Qwen-7B", "flatquant-w4a4kv4", "aime-120"]["beyond_noise"] is True
    assert rows["DeepSeek-R1-Distill-Qwen-7B", "baseline", "aime-120"].get("drop") is None
    assert rows["DeepSeek-R1-Distill-Qwen-7B", "awq-w4a16", "average"].get("noise") is None


def test_ours_stand_beside_the_same_model_recipe_and_task_alone() -> None:
    score = SCORE | {"model": "qwq", "recipe": "four", "task": "aime", "metric": "accuracy", "score": 73.1}
    others = [score | {key: "other"} for key in ("model", "recipe", "task", "metric")] + [score | {"score": None}]
    beside = [row for row in built(QWQ, (score, *others)) if row.get("our_score")]
    assert {row["source"] for row in beside} == {"arXiv 2602.17693", "arXiv 2504.04823 (Quantized-Reasoning-Models)"}
    assert {(row["printed"], row["our_score"], row["our_seeds"]) for row in beside} == {("77.50", 73.1, 3), ("73.3", 73.1, 3)}
    grids = published.printed(built(QWQ, (score,)))
    assert [line[5:] for line in grids[0].rows] == [["77.50", "73.10 [70.00, 76.00]"], ["73.3", "73.10 [70.00, 76.00]"]]
    bold = [isinstance(line[6], published.Bold) for line in grids[0].rows]
    assert bold == [True, False]
    assert len(grids[1].rows) >= 5
    assert published.printed(built())[0].rows == []


def test_a_study_knows_which_of_its_names_were_published() -> None:
    study = deepcopy(dict(SMALL_STUDY))
    study["recipes"] = {"a": {"preset": "awq-w4a16"}, "b": {"preset": "awq-w4a16", "scheme": {"weights": {"group_size": 64}}}}
    study |= {"run": "all", "forms": ["fake"]}
    names = published_names(load(study))
    assert names["recipes"] == {"baseline": "baseline", "a": "awq-w4a16"}
    assert list(names["models"].values()) == ["demo-model"]


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({"benchmark": "gsm8k"}, "gsm8k"),
        ({"benchmark": "gsm8k", "limit": 100}, None),
        ({"benchmark": "gsm8k", "examples": [{"prompt": "1 + 1?", "completion": "2"}]}, None),
        ({"benchmark": "gsm8k", "protocol": "aisbench", "completions": 4}, "gsm8k"),
        ({"benchmark": "wikitext"}, "wikitext"),
        ({"benchmark": "wikitext", "window": 2048}, "wikitext"),
        ({"benchmark": "wikitext", "window": 512}, None),
        ({"benchmark": "piqa"}, "piqa"),
        ({"benchmark": "piqa", "normalization": "none"}, None),
        ({"benchmark": "piqa", "bos": True}, None),
        ({"benchmark": "arc", "source": {"path": "x", "subset": "ARC-Easy"}}, "arc-easy"),
        ({"benchmark": "gpqa", "source": {"path": "x", "file": "gpqa_diamond.csv"}}, "gpqa-diamond"),
        ({"benchmark": "gpqa", "source": {"path": "x", "file": "gpqa_main.csv"}}, None),
        ({"benchmark": "livecodebench", "source": {"path": "x", "file": "test[45].jsonl"}}, "livecodebench-v4-v5"),
        ({"benchmark": "livecodebench", "source": {"path": "x", "file": "test6.jsonl"}}, None),
    ],
)
def test_a_task_is_a_published_one_if_it_is_all_of_it(entry: dict, name: str | None) -> None:
    assert _task(task({"source": {"path": "x"}, **entry})) == name


def test_a_row_that_is_none_is_refused_by_its_line(tmp_path: Path) -> None:
    lines = FILES[0].read_text().splitlines()[:2]
    (tmp_path / "own.csv").write_text("\n".join([*lines, lines[1].replace(lines[1].split(",")[-2], "about 5")]) + "\n")
    with pytest.raises(ArtifactError, match=r"own\.csv, line 3: .*value"):
        published.read(tmp_path / "own.csv")
