"""What the jobs of tables, figures and pages are told, as `jobs` says of those before them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from ptqflow import paths, replicate_names
from ptqflow.artifacts.atomic import canonical_json
from ptqflow.checkpoints import registry as checkpoints
from ptqflow.environments import ROOT
from ptqflow.evaluation import tasks
from ptqflow.expected import expected
from ptqflow.jobs import code, fingerprint, local_files
from ptqflow.platforms import PLATFORMS
from ptqflow.published_names import published_names
from ptqflow.reporting import catalogue
from ptqflow.stale import Asked
from ptqflow.study import Study, config_of

AGGREGATED = (
    *("scores", "diagnostics", "losses", "latency", "checkpoints", "verification", "selftest", "overlaps", "rescues"),
    "statistics",
)


@dataclass(frozen=True)
class TableJobs:
    """Settings, code and sources of the jobs that every study has once, and of its figures."""

    study: Study

    def _overlaps(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Kind, identity and path of the overlap of each calibration set in use with each task that is asked; of any platform."""
        study = self.study
        for model, calibration in product(study.models, dict.fromkeys(map(study.calibration_of, study.chosen))):
            users = [r for r in study.chosen if study.calibration_of(r) == calibration and study.recipes[r].calibrates()]
            for task in sorted(study.tasks_asked()):
                who = {"model": model, "calibration": calibration, "task": task, "recipes": users}
                yield "overlaps", who, paths.overlap(model, calibration, task)

    @cached_property
    def _others(self) -> list[tuple[str, dict[str, Any], str, str | None]]:
        """What other platforms left of this study's files, each with the reason why it is not what is asked for now, if any."""
        return [
            (kind, who, path, self._reason(platform, kind, who, path))
            for platform in PLATFORMS
            if platform != self.study.platform
            for kind, who, path in expected(self.study, platform)
            if Path(path).is_file()
        ]

    def _asked(self, platform: str, who: dict[str, Any]) -> Asked:
        return Asked(self.study, platform, who["model"], replicate_names.name(who["recipe"], who.get("replicate", 0)))

    def _reason(self, platform: str, kind: str, who: dict[str, Any], path: str) -> str | None:
        if kind == "selftest":  # of a device, whatever ran on it
            return None
        if kind == "statistics":  # of all the recipes that read them
            who = who | {"recipe": who["recipes"][0]}
        return self._asked(platform, who).reason(kind, who, path)

    def _present(self) -> list[tuple[str, dict[str, Any], str]]:
        """All files of this platform, and those of other platforms that are what is asked for: the tables compare platforms."""
        there = [(kind, who, path) for kind, who, path, reason in self._others if reason is None]
        active = {who["platform"] for kind, who, _ in there if kind not in ("checkpoints", "selftest")}
        return [
            *expected(self.study, self.study.platform),
            *self._overlaps(),
            *(file for file in there if file[1]["platform"] in active),
        ]

    def left_out(self) -> list[str]:
        """What other platforms left that the tables do not show, each with the reason; what an engine is not given of a form."""
        mine = set(self.aggregate_inputs())
        found = [
            f"{path} is left out of the tables: {reason}" for *_, path, reason in self._others if reason and path not in mine
        ]
        return [*found, *unserved(self.study)]

    def aggregate(self) -> str:
        """Settings of `aggregate`: what each of its files is, in order."""
        files = self._present()
        listed: dict[str, Any] = {kind: [who for k, who, _ in files if k == kind] for kind in AGGREGATED}
        return canonical_json(
            listed | {"names": published_names(self.study), "decide": self.study.decide.model_dump(mode="json")}
        )

    def aggregate_code(self) -> str:
        """Digest of `aggregate` with what each form says of serving it."""
        return code("aggregate", *(checkpoints.modules_of(form)[1] for form in checkpoints.forms()))

    def aggregate_files(self) -> str:
        """The file options of `aggregate`, in the order of its settings."""
        files = self._present()
        given = [word for kind in AGGREGATED for word in (f"--{kind}", *(path for k, _, path in files if k == kind))]
        # Published numbers lie with the code: the shell finds them by its variable, so that code that is moved reruns nothing.
        published = (f'"$PTQFLOW_CODE"/../{Path(path).relative_to(ROOT)}' for path in paths.reference())
        return " ".join([*given, "--reference", *published])

    def aggregate_inputs(self) -> list[str]:
        """The files that this platform's jobs make for `aggregate`."""
        return [path for _, _, path in (*expected(self.study, self.study.platform), *self._overlaps())]

    def promised(self) -> list[str]:
        """Manifests of this platform's checkpoints, and their verification: what must be there at the end, tables or not."""
        return [path for kind, _, path in expected(self.study, self.study.platform) if kind in ("checkpoints", "verification")]

    def aggregate_source(self) -> str:
        """Fingerprint of the files that no job of this platform remakes: other platforms' here, and published numbers."""
        mine = set(self.aggregate_inputs())
        return fingerprint((path for _, _, path in self._present() if path not in mine), with_the_code=paths.reference())

    def _viewed(self) -> list[tuple[dict[str, Any], str]]:
        """Identity and path of the verdicts that the viewer of samples shows: this platform's, of no text and no replicates."""
        files = [(who, path) for kind, who, path in expected(self.study, self.study.platform) if kind == "scores"]
        return [
            (who, path)
            for who, path in files
            if self.study.tasks[who["task"]].definition.kind != "perplexity" and not {"replicate", "batch_size"} & who.keys()
        ]

    def samples(self) -> str:
        """Settings of `samples`: what each of its files is, in order."""
        return canonical_json({"scores": [who for who, _ in self._viewed()]})

    def samples_files(self, kind: str) -> list[str]:
        """The `scores` or `generations` of `samples`, in the order of its settings."""
        return [path if kind == "scores" else paths.generations_of(path) for _, path in self._viewed()]

    def samples_source(self) -> str:
        """Fingerprint of the local data that the prompts are read from."""
        tasks_shown = sorted({who["task"] for who, _ in self._viewed()})
        return fingerprint(file for task in tasks_shown for s in self.study.tasks[task].read for file in local_files(s))

    def samples_code(self) -> str:
        """Digest of `samples` with what asks of each task."""
        modules = {module for who, _ in self._viewed() for module in tasks.generating(self.study.tasks[who["task"]])}
        return code("samples", *sorted(modules))

    def figures(self) -> list[str]:
        """Names of the figures that the study has numbers for: rows in every table that they draw from."""
        quantized = bool(self.study.chosen)
        scored = any(self.study.tasks[task].definition.kind != "perplexity" for task in self.study.tasks_asked())
        rows = {"accuracy": scored and quantized, "layer_error": quantized, "latency": bool(self.study.latency)}
        rows["latency_parts"] = any(timing.parts and timing.engine != "vllm" for timing in self.study.latency.values())
        rows["outliers"] = any(kind == "statistics" for kind, _, _ in expected(self.study, self.study.platform))
        rows["learning"] = any(self.study.recipes[name].learns_by_block() for name in self.study.chosen)
        rows["answer"] = rows["accuracy"]  # what is drawn of it are drops
        generated = any(self.study.tasks[task].definition.kind == "generation" for task in self.study.tasks_asked())
        rows["collapse"] = generated
        rows["rescue"] = True  # empty or not: the figures that read it draw the table `learning`
        return [figure for figure in catalogue.FIGURES if all(rows[table] for table in catalogue.tables_of(figure))]

    def report(self) -> str:
        """Settings of `report`."""
        return canonical_json({"samples": Path(paths.SAMPLES).name} if self._viewed() else {})

    def report_source(self) -> str:
        """Fingerprint of the captions; by name, wherever they lie."""
        return fingerprint((), with_the_code=(ROOT / "workflow/report").glob("*.rst"))

    def plot(self, figure: str) -> str:
        """Settings of `plot`."""
        return canonical_json({"figure": figure})


def unserved(study: Study) -> list[str]:
    """What the engines of suites and timings are not given of `servable` forms, since they do not compute it, with the reason."""
    return [
        f"{model} {variant} is left out of {kind}.{name}: {served.engine}: {reason}"
        for model in study.models
        for kind, entries in (("suites", study.suites), ("latency", study.latency))
        for name, served in entries.items()
        for variant, reason in study.uncomputed(served, config_of(study, model)).items()
        if not replicate_names.split(variant.split(".")[0])[1]
    ]
