"""Snakemake's scheduler looks for jobs when one ended, and not again and again while others wait for cores."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ptqflow.scheduling import take_off_default_limit
from snakemake.cli import get_argument_parser
from snakemake.scheduling.job_scheduler import JobRateLimiter
from snakemake.settings.types import MaxJobsPerTimespan

ROOT = Path(__file__).resolve().parents[2]
JOBS = 8


@pytest.mark.parametrize(("asked", "stays"), [(None, False), ("100/1m", True), ("5/1s", True)])
def test_the_default_limit_is_taken_off_and_one_that_was_asked_for_stays(asked, stays):
    asked = asked or get_argument_parser().get_default("max_jobs_per_timespan")
    scheduler = SimpleNamespace(job_rate_limiter=JobRateLimiter(MaxJobsPerTimespan.parse_choice(asked)))
    take_off_default_limit(scheduler)
    assert (scheduler.job_rate_limiter is not None) == stays


def test_without_it_the_scheduler_looks_once_for_each_job_that_ends(tmp_path):
    (tmp_path / "Snakefile").write_text(f"""
import sys
sys.path.insert(0, {str(ROOT / "workflow")!r})
from ptqflow.scheduling import take_off_default_limit
onstart:
    take_off_default_limit(workflow.scheduler)
rule all:
    input: expand("{{i}}", i=range({JOBS}))
rule one:
    output: "{{i}}"
    shell: "sleep 0.3; touch {{output}}"
""")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--verbose"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Ready jobs: ") <= JOBS + 1


def test_the_workflow_takes_it_off():
    rules = (ROOT / "workflow/rules/common.smk").read_text()
    assert "onstart:\n    take_off_default_limit(workflow.scheduler)\n" in rules
