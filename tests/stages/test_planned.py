"""Jobs of one run that ask one model load it once; each output is what its job alone would have made."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from ptqflow import planned
from ptqflow.artifacts.schemas import GENERATIONS
from ptqflow.artifacts.tables import read_metadata, read_table
from ptqflow.cli import main
from ptqflow.digest import code_digest
from ptqflow.engines import protocol
from ptqflow.stages import generate
from talking_models import talking_model

CODE = code_digest("ptqflow.stages.generate", "ptqflow.engines.transformers_engine", "ptqflow.evaluation.requests.generation")
PROBLEMS = [{"id": f"p{i}", "question": "q" * (1 + 7 * i % 11), "answer": str(i)} for i in range(6)]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_model(tmp_path_factory.mktemp("model"))


class Run:
    """Jobs for seeds 0 to 2 of one task, some announced; `loads`: of models so far."""

    def __init__(self, manifest: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.manifest, self.folder, self.monkeypatch = manifest, folder, monkeypatch
        self.loads = 0
        self.data = folder / "test.jsonl"
        self.data.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
        load = protocol.load

        def counted(*arguments: Any) -> Any:
            self.loads += 1
            return load(*arguments)

        monkeypatch.setattr(protocol, "load", counted)
        monkeypatch.setenv(planned._FOLDER, "")

    def ask(self, seed: int, **changes: Any) -> planned.Ask:
        settings = {"task": "sums", "benchmark": "problems", "source": {"path": str(self.data)}, "engine": "transformers"}
        settings |= {"seed": seed, "protocol": {"max_new_tokens": 12, "temperature": 1.0}, "batch_size": 4}
        return planned.Ask(
            platform="cpu", checkpoint=str(self.manifest), output=str(self.output(seed)), settings=settings | changes, code=CODE
        )

    def output(self, seed: int) -> Path:
        return self.folder / f"out/seed={seed}.parquet"

    def announce(self, *asks: planned.Ask) -> None:
        """As the workflow does; the variable goes with the test."""
        planned.announce(asks)

    def job(self, ask: planned.Ask) -> int:
        options = ["--platform", ask.platform, "--checkpoint", ask.checkpoint, "--output", ask.output, "--code", ask.code]
        return main(["generate", "--settings", json.dumps(ask.settings), *options])

    def rows(self, seed: int) -> list[dict[str, Any]]:
        return read_table(self.output(seed), GENERATIONS).drop_columns(["seconds"]).to_pylist()


@pytest.fixture
def jobs(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(manifest, tmp_path, monkeypatch)


def test_a_run_loads_its_model_once_and_each_job_writes_its_own(jobs: Run) -> None:
    asks = [jobs.ask(seed) for seed in range(3)]
    assert [jobs.job(ask) for ask in asks] == [0, 0, 0]
    alone = [(jobs.rows(seed), read_metadata(jobs.output(seed))) for seed in range(3)]
    assert jobs.loads == 3
    for seed in range(3):
        jobs.output(seed).unlink()
    jobs.announce(*asks)
    for seed, ask in enumerate(asks):
        assert jobs.job(ask) == 0
        assert [jobs.output(s).exists() for s in range(3)] == [s <= seed for s in range(3)]
    assert jobs.loads == 4
    assert [(jobs.rows(seed), read_metadata(jobs.output(seed))) for seed in range(3)] == alone
    assert not list(jobs.output(0).parent.glob("*.parts"))


def test_what_is_not_planned_or_of_another_model_is_not_asked(jobs: Run, tmp_path: Path) -> None:
    other = jobs.ask(1).model_copy(update={"checkpoint": str(tmp_path / "other/manifest.json")})
    platform = jobs.ask(2).model_copy(update={"platform": "gpu"})
    jobs.announce(jobs.ask(0), other, platform, jobs.ask(2, engine="vllm"))
    assert jobs.job(jobs.ask(0)) == 0
    assert not list(Path(planned._folder() or "").glob("*.parquet"))


def test_an_answer_to_another_question_is_not_taken(jobs: Run) -> None:
    """What was announced and what the job is told are the same by construction; if ever not, the job's own settings count."""
    jobs.announce(jobs.ask(0), jobs.ask(1))
    assert jobs.job(jobs.ask(0)) == 0
    assert jobs.job(jobs.ask(1, protocol={"max_new_tokens": 3})) == 0
    assert jobs.loads == 2
    assert {row["completion_tokens"] for row in jobs.rows(1)} == {3}


def test_a_task_that_cannot_be_asked_fails_in_its_own_job(jobs: Run, capsys: pytest.CaptureFixture[str]) -> None:
    broken = jobs.ask(1, source={"path": str(jobs.folder / "missing.jsonl")})
    jobs.announce(jobs.ask(0), broken, jobs.ask(2))
    assert jobs.job(jobs.ask(0)) == 0
    assert "seed=1.parquet is left to its own job" in capsys.readouterr().err
    assert jobs.job(broken) == 2
    assert jobs.job(jobs.ask(2)) == 0


def test_code_edited_since_the_run_was_planned_is_not_run_for_others(jobs: Run) -> None:
    jobs.announce(jobs.ask(0), jobs.ask(1).model_copy(update={"code": CODE[:-1] + "?"}))
    assert jobs.job(jobs.ask(0)) == 0
    assert not list(Path(planned._folder() or "").glob("*.parquet"))


def test_a_job_cut_off_while_it_asked_for_others_goes_on_with_its_own_alone(jobs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what kills it there (memory, say) would do so for ever. What it asked for the others is kept, too."""
    jobs.announce(jobs.ask(0), jobs.ask(1))
    write, written = generate.write_rows, []

    def killed(file: Path, *arguments: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(file)
        write(file, *arguments)

    monkeypatch.setattr(generate, "write_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        jobs.job(jobs.ask(0))
    jobs.output(0).unlink()  # as Snakemake does with the output of a job that failed
    monkeypatch.setattr(generate, "write_rows", write)
    jobs.announce(jobs.ask(0), jobs.ask(1))
    asked: list[int] = []
    monkeypatch.setattr(generate.Journal, "add", lambda self, results: asked.extend(results))
    assert jobs.job(jobs.ask(0)) == 0
    assert not list(Path(planned._folder() or "").glob("*.parquet"))
    assert jobs.job(jobs.ask(1)) == 0
    assert asked == []
    assert not list(jobs.output(0).parent.glob("*.parts"))


def test_nobody_asks_what_another_asks_and_its_own_job_waits(jobs: Run) -> None:
    jobs.announce(jobs.ask(0), jobs.ask(1))
    got: list[str] = []

    def own() -> None:
        with planned.turn(jobs.output(1), own=True) as mine:
            got.append(f"own {mine}")

    with planned.turn(jobs.output(1), own=False) as first:
        assert first
        with planned.turn(jobs.output(1), own=False) as second:
            assert not second
        waiting = threading.Thread(target=own)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        got.append("asked")
    waiting.join()
    assert got == ["asked", "own True"]
    with planned.turn(jobs.output(1), own=False) as late:
        assert not late


def test_without_a_run_each_job_asks_its_own(jobs: Run) -> None:
    assert planned.others("cpu", jobs.manifest, "transformers", 1, jobs.output(0)) == []
    assert planned.answer(jobs.output(0)) is None
    with planned.turn(jobs.output(0), own=True) as mine:
        assert mine
