"""What a run says on the terminal: a line for each job that ends, how far the run is and how long it may still take.

Snakemake tells its loggers of jobs as records with an `event`; its own, longer log stays in a file.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from ptqflow.words import span

_TARGETS = ("all",)  # rules that ask for files and do nothing
_TELLING = (
    "part",
    "model",
    "rotation",
    "calibration",
    "recipe",
    "chunk",
    "form",
    "variant",
    "engine",
    "task",
    "seed",
    "timing",
    "figure",
)
_NAMED = {"chunk": "chunk {}", "seed": "seed {}"}
_LINES_OF_FAILURE = 3


def described(rule: str, wildcards: Mapping[str, Any]) -> str:
    """A job in words: its rule and what it is about."""
    words = [_NAMED.get(key, "{}").format(wildcards[key]) for key in _TELLING if key in wildcards]
    return " ".join([rule, *dict.fromkeys(words)])


@dataclass
class Console:
    """Follows one run. `say` prints a line; `clock` gives seconds."""

    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    planned: Counter[str] = field(default_factory=Counter)
    started: dict[int, tuple[str, str, float]] = field(default_factory=dict)
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failed: int = 0
    begun: float | None = None

    def event(self, name: str, record: Mapping[str, Any]) -> bool:
        """Take in an event of Snakemake's. Returns whether it is one that this console knows."""
        known = {"run_info": self._plan, "job_info": self._start, "job_finished": self._finish, "job_error": self._fail}
        if name in known:
            known[name](record)
        return name in known or name in ("progress", "job_started", "shellcmd", "resources_info", "workflow_started", "debug_dag")

    def _plan(self, record: Mapping[str, Any]) -> None:
        stats = record["stats"]
        self.planned = Counter({rule: int(n) for rule, n in stats.items() if rule not in (*_TARGETS, "total")})
        self.begun = self.clock()
        if self.planned:
            jobs = ", ".join(f"{n} {rule}" for rule, n in self.planned.items())
            self.say(f"{self.planned.total()} jobs to run: {jobs}")

    def _start(self, record: Mapping[str, Any]) -> None:
        rule = record["rule_name"]
        self.started[record["jobid"]] = (rule, described(rule, record["wildcards"]), self.clock())

    def _finish(self, record: Mapping[str, Any]) -> None:
        rule, what, start = self.started.pop(record["job_id"], ("", "", 0.0))
        if not rule or rule in _TARGETS:
            return
        self.seconds[rule].append(self.clock() - start)
        left = self.left()
        about = f", about {span(left)} left" if left is not None and self.done < self.planned.total() else ""
        total = self.planned.total()
        self.say(f"[{self.done:>{len(str(total))}}/{total}] {what}: {span(self.seconds[rule][-1])}{about}")

    def _fail(self, record: Mapping[str, Any]) -> None:
        self.failed += 1
        _, what, _ = self.started.pop(record["jobid"], (record["rule_name"], record["rule_name"], 0.0))
        logs = {log: last_lines(log) for log in record["log"]}
        said = [line for lines in logs.values() for line in lines]
        if not said or said[-1].startswith("KeyboardInterrupt"):  # no fault of the job's
            self.say(f"STOPPED {what}: {'interrupted' if said else 'interrupted or killed before it said anything'}")
            return
        self.say(f"FAILED {what}")
        for log, lines in logs.items():
            self.say("".join(f"    {line}\n" for line in lines) + f"    (all of it: {log})")

    @property
    def done(self) -> int:
        """Number of jobs that ended well."""
        return sum(map(len, self.seconds.values()))

    def left(self) -> float | None:
        """Seconds that the rest may take: the mean of each rule so far, as many at once as until now. None at first."""
        if not self.done or self.begun is None:
            return None
        spent = [seconds for of_rule in self.seconds.values() for seconds in of_rule]
        at_once = max(1.0, sum(spent) / max(self.clock() - self.begun, 1e-9))
        overall = fmean(spent)
        rest = {rule: n - len(self.seconds.get(rule, ())) for rule, n in self.planned.items()}
        means = {rule: fmean(self.seconds[rule]) if self.seconds.get(rule) else overall for rule in rest}
        return sum(max(n, 0) * means[rule] for rule, n in rest.items()) / at_once


def last_lines(log: str) -> list[str]:
    """What a job said last: of `ptqflow`, its one sentence; else the end of the log."""
    try:
        lines = [line for line in Path(log).read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    except OSError:
        return []
    said = [line for line in lines if line.startswith("ptqflow ")]
    return said[-1:] or lines[-_LINES_OF_FAILURE:]


def warnings_of(log: str | Path) -> list[str]:
    """The lines of a stage's log that are no progress: what it left, did otherwise or could not judge."""
    try:
        text = Path(log).read_text(errors="replace")
    except OSError:
        return []
    marks = ("not as the recipe says", "quantize: warning", "no verdict", "not finite")
    return [line for line in text.splitlines() if any(mark in line for mark in marks)]
