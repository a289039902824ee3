"""A job of `generate` that is cut off goes on: nothing finished is asked again; the file is that of one run, timings aside.

Completions of the batch that was cut off are finished in a smaller one, so the last bits of their log-probabilities are its own.
"""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interrupt import kill_when, run, stage_command
from ptqflow.artifacts.journal import Journal, _members
from ptqflow.artifacts.schemas import GENERATIONS
from ptqflow.artifacts.tables import read_metadata, read_table
from ptqflow.cli import main
from ptqflow.engines.transformers_engine import TransformersEngine
from talking_models import talking_model

PROBLEMS = [{"id": f"p{i:02d}", "question": "q" * (1 + 7 * i % 11), "answer": str(i)} for i in range(20)]
CHOICES = [
    {"id": f"c{i:02d}", "question": "c" * (1 + 5 * i % 17), "choices": ["yes", "no, " * (1 + i % 3)], "answer": i % 2}
    for i in range(30)
]
TEXTS = [{"id": f"t{i}", "text": f"{i} little words of a text"} for i in range(30)]
TASKS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "problems": ({"max_new_tokens": 40, "temperature": 1.0, "completions": 2}, PROBLEMS),
    "choices": ({}, CHOICES),
    "text": ({"window": 24}, TEXTS),
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_model(tmp_path_factory.mktemp("model"))


def asked(manifest: Path, task: str, output: Path, batch_size: int = 4) -> list[str]:
    """The arguments of the stage for one of TASKS."""
    protocol, rows = TASKS[task]
    data = manifest.with_name(f"{task}.jsonl")
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"task": task, "benchmark": task, "source": {"path": str(data)}, "protocol": protocol, "seed": 5}
    options = ["--platform", "cpu", "--checkpoint", str(manifest), "--output", str(output)]
    return [json.dumps(settings | {"batch_size": batch_size}), *options]


def generate(*arguments: Any) -> int:
    settings, *options = asked(*arguments)
    return main(["generate", "--settings", settings, *options])


def said(output: Path) -> list[dict[str, Any]]:
    """The rows of a file, without what the clock says, and without the last digits of log-probabilities of completions."""
    rows = read_table(output, GENERATIONS).drop_columns(["seconds"]).to_pylist()
    return [row | {"logprob": None if row["logprob"] is None else pytest.approx(row["logprob"], rel=1e-5)} for row in rows]


class Killed(BaseException):
    pass


class Counted:
    """Counts the requests that an engine is asked, and kills the job after `limit` results came."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.limit = 0, 1 << 30
        for name in ("generate", "loglikelihoods", "score"):
            monkeypatch.setattr(TransformersEngine, name, self.counting(getattr(TransformersEngine, name)))

    def counting(self, method: Any) -> Any:
        def counted(engine: TransformersEngine, requests: Any, *arguments: Any) -> Iterator[Any]:
            self.asked += len(requests) - len(arguments[-1])
            for number, result in enumerate(method(engine, requests, *arguments)):
                if number >= self.limit:
                    raise Killed
                yield result

        return counted


@pytest.mark.parametrize("task", TASKS)
def test_a_job_killed_again_and_again_asks_only_what_is_unfinished(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    whole, output = tmp_path / "whole/o.parquet", tmp_path / "cut/o.parquet"
    parts = output.with_name("o.parquet.parts")
    assert generate(manifest, task, whole) == 0
    counted, moments = Counted(monkeypatch), random.Random(task)
    unfinished = [0]
    for _ in range(4):
        counted.asked, counted.limit = 0, moments.randint(1, 3)
        with pytest.raises(Killed):
            generate(manifest, task, output)
        if moments.random() < 0.5:  # the kill tears what was being written
            last = max(parts.iterdir(), key=lambda path: path.stat().st_mtime_ns)
            last.write_bytes(last.read_bytes()[: -moments.randint(1, 20)])
        unfinished.append(counted.asked)
    kept = {n for path in parts.iterdir() for group in list(_members(path))[1:] for n in group}
    counted.asked, counted.limit = 0, 1 << 30
    assert generate(manifest, task, output) == 0
    assert sorted(unfinished[1:], reverse=True) == unfinished[1:]
    assert counted.asked == unfinished[1] - len(kept) > 0
    assert said(output) == said(whole)
    assert read_metadata(output) == read_metadata(whole)
    assert not parts.exists()


def test_a_killed_process_goes_on_with_what_it_kept(manifest: Path, tmp_path: Path) -> None:
    """kill -9, for real; the seconds of a kept completion are those of the killed process."""
    whole, output = tmp_path / "whole/o.parquet", tmp_path / "cut/o.parquet"
    settings, *options = asked(manifest, "problems", output, 1)
    parts, moment = output.with_name("o.parquet.parts"), random.Random(0).randint(600, 2500)
    command = stage_command("generate", settings, *options)
    assert kill_when(lambda: sum(path.stat().st_size for path in parts.glob("*")) > moment, command, tmp_path)
    assert not output.exists()
    kept = {int(n): result for path in parts.iterdir() for group in list(_members(path))[1:] for n, result in group.items()}
    assert 0 < len(kept) < 40
    run(command, tmp_path)
    assert generate(manifest, "problems", whole, 1) == 0
    assert said(output) == said(whole)
    rows = read_table(output, GENERATIONS).to_pylist()
    assert {rows[n]["seconds"] for n in kept} == {result["seconds"] for result in kept.values()}


@pytest.mark.parametrize("change", ["seed", "temperature", "data", "code"])
def test_what_another_question_left_is_asked_again(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    output = tmp_path / "o.parquet"
    counted = Counted(monkeypatch)
    counted.limit = 5
    settings, *options = asked(manifest, "problems", output)
    with pytest.raises(Killed):
        main(["generate", "--settings", settings, *options])
    other = json.loads(settings)
    if change == "seed":
        other["seed"] = 6
    elif change == "temperature":
        other["protocol"]["temperature"] = 0.9
    elif change == "data":
        with open(other["source"]["path"], "a") as file:
            file.write(json.dumps({"id": "new", "question": "q", "answer": "1"}) + "\n")
    else:
        monkeypatch.setattr("ptqflow.stages.generate.code_digest", lambda *modules: "other")
    counted.asked, counted.limit = 0, 1 << 30
    assert main(["generate", "--settings", json.dumps(other), *options]) == 0
    assert counted.asked == (42 if change == "data" else 40)
    assert len(list(output.with_name("o.parquet.parts").iterdir())) == 1


def test_a_prompt_that_changes_with_the_day_is_another_question(tmp_path: Path) -> None:
    """Chat templates may write the date: settings, data and checkpoint are the same, the prompts are not."""
    today = Journal(tmp_path / "parts", {"settings": 1})
    today.open("prompts of today")
    today.add({0: "answer"})
    assert Journal(tmp_path / "parts", {"settings": 1}).open("prompts of tomorrow") == 0


@pytest.mark.parametrize("task", TASKS)
def test_seconds_of_the_samples_sum_up_to_the_engines_time(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """Not to the job's: here whoever reads the results is slow."""
    busy, add = [], Journal.add

    def slow(journal: Journal, results: dict[int, Any]) -> None:
        time.sleep(0.02)
        add(journal, results)

    def timed(method: Any) -> Any:
        def asking(*arguments: Any) -> Iterator[Any]:
            results = method(*arguments)
            while True:
                start = time.perf_counter()
                result = next(results, None)
                busy.append(time.perf_counter() - start)
                if result is None:
                    return
                yield result

        return asking

    monkeypatch.setattr(Journal, "add", slow)
    for name in ("generate", "loglikelihoods", "score"):
        monkeypatch.setattr(TransformersEngine, name, timed(getattr(TransformersEngine, name)))
    assert generate(manifest, task, tmp_path / "o.parquet") == 0
    seconds = read_table(tmp_path / "o.parquet", GENERATIONS)["seconds"].to_pylist()
    assert all(value > 0 for value in seconds)
    assert sum(seconds) == pytest.approx(sum(busy), rel=0.25)
