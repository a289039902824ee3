"""Snakemake's scheduler as a study of many short jobs needs it."""

from typing import Any

DEFAULT = (100, 1.0)  # Snakemake's `--max-jobs-per-timespan`: 100/1s


def take_off_default_limit(scheduler: Any) -> None:
    """Let a JobScheduler start jobs without Snakemake's default limit of 100 a second; one that was asked for stays.

    Under a limit it looks for jobs to start after each job that ends, and once more a timespan after each look while others wait
    for cores (`JobScheduler.schedule` of Snakemake 9.27): so many looks a second as jobs have ended. In a study of 1,146 jobs
    they took half a core throughout.
    """
    limiter = scheduler.job_rate_limiter
    if limiter is not None and (limiter.max_jobs, limiter.timespan) == DEFAULT:
        scheduler.job_rate_limiter = None
