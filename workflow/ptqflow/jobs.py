"""What each job of the workflow is told: ONE canonical JSON string of its settings, and a digest of the code it can reach.

Snakemake compares a job's params as an unordered set of values and drops objects silently, so each is one string.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptqflow import paths
from ptqflow.artifacts.atomic import canonical_json
from ptqflow.artifacts.datasets import data_files
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.models import Part, of_part, source_files
from ptqflow.by_name import settings_module
from ptqflow.checkpoints import registry as checkpoints
from ptqflow.chunks import chunk_layers
from ptqflow.engines import registry as engines
from ptqflow.evaluation import tasks
from ptqflow.method import Rotation
from ptqflow.modeling import anatomy
from ptqflow.planned_code import code_digest
from ptqflow.sources import Source
from ptqflow.study import Study, layers_of, model_type_of


def code(stage: str, *modules: str) -> str:
    """Digest of a stage and of the modules it will find by name."""
    return code_digest(f"ptqflow.stages.{stage}", *(f"ptqflow.{module}" for module in modules))


def fingerprint(files: Iterable[str | Path], with_the_code: Iterable[str | Path] = ()) -> str:
    """Canonical JSON of path -> sha256: a touched file changes nothing, a changed byte everything.

    `with_the_code`: files that lie beside the code, wherever that is; they go by name.
    """
    cache = HashCache()
    named = {str(file): file for file in files} | {Path(file).name: file for file in with_the_code}
    return canonical_json({name: cache.sha256(file) for name, file in sorted(named.items())})


def local_files(source: Source) -> list[Path]:
    """The local files that hold the rows of a source; a hub source's revision says it already."""
    return data_files(source) if source.local is not None else []


@dataclass(frozen=True)
class Jobs:
    """Settings, code and sources of every job of a study, by the wildcards of its rule."""

    study: Study

    def fetch(self, model: str) -> str:
        """Settings of `fetch`."""
        return canonical_json(self.study.models[model].source.model_dump(mode="json", exclude_none=True))

    def fetch_source(self, model: str, part: Part) -> str:
        """Fingerprint of a part of a local model folder; a hub model's revision says it already."""
        path = self.study.models[model].source.path
        return fingerprint(Path(path) / name for name in of_part(source_files(path), part)) if path is not None else ""

    def _rotation(self, label: str) -> Rotation:
        return next(entry.rotation for entry in self.study.recipes.values() if entry.rotation.label == label)

    def rotate(self, rotation: str) -> str:
        """Settings of `rotate`."""
        return canonical_json({"rotation": self._rotation(rotation).model_dump(mode="json")})

    def rotate_code(self, model: str, rotation: str) -> str:
        """Digest of `rotate` with the rotation it makes."""
        name = self._rotation(rotation).name
        return code("rotate", *self._architecture(model), settings_module("rotation", name), f"methods.rotations.{name}")

    def tokens(self, calibration: str) -> str:
        """Settings of `tokens`."""
        return canonical_json(self.study.calibrations[calibration].model_dump(mode="json", exclude_none=True))

    def tokens_source(self, calibration: str) -> str:
        """Fingerprint of a local calibration source."""
        return fingerprint(local_files(self.study.calibrations[calibration].source))

    def overlap(self, calibration: str, task: str) -> str:
        """Settings of `overlap`: which rows, and which items."""
        drawn, entry = self.study.calibrations[calibration], self.study.tasks[task]
        settings = {
            "calibration": drawn.source.model_dump(mode="json", exclude_none=True),
            "fields": {"id": drawn.fields.id},
            "task": task,
            "benchmark": entry.benchmark,
            **self._source(task),
        }
        limit = None if entry.definition.kind == "perplexity" else entry.asks.get("limit")  # a text is limited by windows
        return canonical_json(settings | ({"limit": limit} if limit else {}))

    def overlap_source(self, calibration: str, task: str) -> str:
        """Fingerprint of the local data of both."""
        return self.tokens_source(calibration) + self.generate_source(task)

    def overlap_code(self, task: str) -> str:
        """Digest of `overlap` with what asks of the task."""
        return code("overlap", *tasks.generating(self.study.tasks[task]))

    def selftest(self) -> str:
        """Settings of `selftest`."""
        return canonical_json({})

    def collect(self, model: str) -> str:
        """Settings of `collect` on `model`, or on `model.rotation`."""
        return canonical_json({"chunks": self.study.models[model.partition(".")[0]].chunks})

    def layers(self, model: str, chunk: int) -> range:
        """The decoder blocks of a chunk."""
        return chunk_layers(layers_of(self.study, model), self.study.models[model].chunks)[chunk]

    def quantize(self, model: str, recipe: str, chunk: int) -> str:
        """Settings of `quantize`: a chunk sees only the overrides of its own layers."""
        layers = self.layers(model, chunk)
        settings: dict[str, Any] = {"chunk": chunk, "layers": [layers.start, layers.stop]}
        if not self.study.measures_errors(recipe):
            settings["layer_errors"] = False
        return canonical_json(settings | {"recipe": self._recipe(recipe, layers)})

    def rescue(self, recipe: str) -> str:
        """Settings of `rescue`."""
        return canonical_json({"recipe": self._recipe(recipe)})

    def rescue_code(self, model: str, recipe: str) -> str:
        """Digest of `rescue` with the methods that the recipe runs."""
        entry = self.study.recipes[recipe]
        return code("rescue", *self._architecture(model), *entry.settings_modules(), *entry.algorithm_modules())

    def _recipe(self, recipe: str, layers: range | None = None) -> dict[str, Any]:
        entry = self.study.recipes[recipe].model_copy(update={"calibration": None})  # the input files say which
        return (entry if layers is None else entry.for_layers(layers)).dump()

    def _architecture(self, model: str) -> list[str]:
        """The module of a model's architecture; all of them where a hub model does not state it, before it is here and after."""
        stated = model_type_of(self.study, model.partition(".")[0])
        return [anatomy.module_of(known) for known in ([stated] if stated else anatomy.known())]

    def collect_code(self, model: str) -> str:
        """Digest of `collect`."""
        return code("collect", *self._architecture(model))

    def quantize_code(self, model: str, recipe: str) -> str:
        """Digest of `quantize` with the methods that the recipe runs, and no others."""
        entry = self.study.recipes[recipe]
        return code("quantize", *self._architecture(model), *entry.settings_modules(), *entry.algorithm_modules())

    def export(self, recipe: str, form: str) -> str:
        """Settings of `export`."""
        return canonical_json({"recipe": self._recipe(recipe), "form": form})

    def generate(self, model: str, engine: str, task: str, seed: int, variant: str = "baseline") -> str:
        """Settings of `generate`: one task at one seed, as the benchmark's protocol asks it. The suite's name is none of
        them; of the model only the devices that share it, of the variant only the batches that a repeated baseline is asked in.
        An engine that forms its batches is told of no others.
        """
        entry, suite = self.study.tasks[task], self.study.suite_of(engine, task, seed)
        own = None if engines.forms_batches(engine) else suite.batch_size
        settings = {
            "task": task,
            "benchmark": entry.benchmark,
            **self._source(task),
            "protocol": entry.asks,
            "engine": engine,
            "seed": seed,
            "batch_size": paths.batch_size(variant) or own,
            "tensor_parallel": suite.ranks(model),
        }
        return canonical_json(settings)

    def generate_source(self, task: str) -> str:
        """Fingerprint of the local data of a task."""
        return fingerprint(file for source in self.study.tasks[task].read for file in local_files(source))

    def _reading(self, model: str, variant: str) -> list[str]:
        """The modules that reading a variant's recipe imports by name: an engine asks them what to do while the model runs."""
        recipe = "baseline" if paths.batch_size(variant) else variant.partition(".")[0]
        if recipe == "baseline":
            return []
        return [*self._architecture(model), *self.study.recipes[recipe].settings_modules()]

    def generate_code(self, model: str, engine: str, task: str, variant: str) -> str:
        """Digest of `generate` with the engine, what asks of the task and what the recipe names; nothing that scores."""
        asking = tasks.generating(self.study.tasks[task])
        return code("generate", engines.module_of(engine), *asking, *self._reading(model, variant))

    def score(self, task: str) -> str:
        """Settings of `score`."""
        entry = self.study.tasks[task]
        settings = {"benchmark": entry.benchmark, "version": entry.definition.version, "metric": entry.metric}
        return canonical_json(settings | (self._source(task) if entry.definition.judged_by_rows else {}))

    def score_source(self, task: str) -> str:
        """Fingerprint of the local data that a task's answers are judged by."""
        return self.generate_source(task) if self.study.tasks[task].definition.judged_by_rows else ""

    def _source(self, task: str) -> dict[str, Any]:
        return self.study.tasks[task].model_dump(mode="json", include={"source"}, exclude_none=True)

    def score_code(self, task: str) -> str:
        """Digest of `score` with the benchmark's scorer."""
        return code("score", *tasks.scoring(self.study.tasks[task]))

    def measure(self, model: str, timing: str) -> str:
        """Settings of `measure`."""
        return canonical_json(self.study.latency[timing].asked(model))

    def measure_code(self, model: str, timing: str, variant: str) -> str:
        """Digest of `measure` with the engine it times and what the variant's recipe names."""
        return code("measure", engines.module_of(self.study.latency[timing].engine), *self._reading(model, variant))

    def export_code(self, model: str, recipe: str, form: str) -> str:
        """Digest of `export` with the modules of this form and what the recipe names."""
        return code("export", *checkpoints.modules_of(form), *self._reading(model, f"{recipe}.{form}"))

    def verify(self, recipe: str, form: str) -> str:
        """Settings of `verify`."""
        engine = checkpoints.engine(form, self.study.recipes[recipe])
        return canonical_json({"recipe": self._recipe(recipe), "form": form} | ({"engine": engine} if engine else {}))

    def verify_code(self, model: str, recipe: str, form: str) -> str:
        """Digest of `verify` with the modules of this form, and of the engine that loads it."""
        engine = checkpoints.engine(form, self.study.recipes[recipe])
        reading = self._reading(model, f"{recipe}.{form}")
        return code("verify", *checkpoints.modules_of(form), *([engines.module_of(engine)] if engine else []), *reading)
