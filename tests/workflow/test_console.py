"""The console of a run: a line for each job that ends, an estimate that follows what jobs took, what failed in its own words."""

from types import SimpleNamespace

import pytest
from ptqflow.console import Console, described, last_lines, warnings_of
from ptqflow.words import span


def following(stats: dict[str, int]) -> tuple[Console, list[str], SimpleNamespace]:
    """A console of a run of so many jobs by rule, the lines it says, and its clock."""
    said: list[str] = []
    clock = SimpleNamespace(now=0.0)
    console = Console(said.append, lambda: clock.now)
    console.event("run_info", {"stats": stats | {"all": 1, "total": sum(stats.values()) + 1}})
    return console, said, clock


def start(console: Console, job: int, rule: str, **wildcards: object) -> None:
    console.event("job_info", {"rule_name": rule, "jobid": job, "wildcards": wildcards})


def test_each_finished_job_is_one_line_with_model_and_recipe():
    console, said, clock = following({"quantize": 2, "export": 1})
    start(console, 7, "quantize", platform="cpu", model="demo", recipe="gptq-w4", chunk="1")
    clock.now = 30.0
    console.event("job_finished", {"job_id": 7})
    assert said == ["3 jobs to run: 2 quantize, 1 export", "[1/3] quantize demo gptq-w4 chunk 1: 30 s, about 60 s left"]


def test_the_estimate_takes_the_mean_of_each_rule_and_what_runs_at_once():
    console, _, clock = following({"quantize": 4, "score": 1})
    for job in (1, 2):
        start(console, job, "quantize", recipe="a")
    start(console, 3, "score", task="t")
    clock.now = 10.0
    for job in (1, 2):
        console.event("job_finished", {"job_id": job})
    assert console.left() == (2 * 10 + 1 * 10) / 2  # two at once; a rule that has not ended yet counts as the mean
    clock.now = 20.0
    console.event("job_finished", {"job_id": 3})
    assert console.left() == 2 * 10 / 2


def test_a_failed_job_shows_the_sentence_of_its_stage(tmp_path):
    log = tmp_path / "log"
    log.write_text("quantize: 1/4 blocks, 5.0 s\nptqflow quantize: memory does not suffice\n")
    console, said, _ = following({"quantize": 1})
    start(console, 1, "quantize", model="demo", recipe="gptq-w4", chunk="0")
    console.event("job_error", {"jobid": 1, "rule_name": "quantize", "log": [str(log)]})
    assert said[1] == "FAILED quantize demo gptq-w4 chunk 0"
    assert "ptqflow quantize: memory does not suffice" in said[2]
    assert str(log) in said[2]


@pytest.mark.parametrize("text", ["", "Traceback ...\n  torch.mm(a, b)\nKeyboardInterrupt\n"])
def test_an_interrupted_job_is_not_said_to_have_failed(tmp_path, text):
    (tmp_path / "log").write_text(text)
    console, said, _ = following({"export": 1})
    start(console, 1, "export", model="demo", recipe="gptq-w4", form="fake")
    console.event("job_error", {"jobid": 1, "rule_name": "export", "log": [str(tmp_path / "log")]})
    (line,) = said[1:]
    assert line.startswith("STOPPED export demo gptq-w4 fake: interrupted")
    assert console.failed == 1


def test_what_a_stage_says_of_its_results_is_a_warning_and_its_progress_is_none(tmp_path):
    log = tmp_path / "log"
    log.write_text("quantize: 4/4 blocks, 9.0 s\nquantize: 3 of 28 linears and blocks not as the recipe says: no inverse\n")
    assert warnings_of(log) == ["quantize: 3 of 28 linears and blocks not as the recipe says: no inverse"]
    assert warnings_of(tmp_path / "nowhere") == []
    assert last_lines(str(tmp_path / "nowhere")) == []


def test_names_that_say_the_same_are_said_once():
    assert described("measure", {"model": "m", "engine": "transformers", "timing": "transformers"}) == "measure m transformers"


def test_durations_have_the_unit_that_people_use():
    assert [span(s) for s in (0, 8.4, 40.2, 300, 3 * 3600)] == ["0 s", "8.4 s", "40 s", "5 min", "3.0 h"]
