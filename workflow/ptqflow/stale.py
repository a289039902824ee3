"""Whether what another platform left in `results` is what the study asks for now: no job of this platform makes it anew.

Each file says what it was made from (`artifacts.provenance`); that is compared with the study, never with the place it lies in.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ptqflow import paths
from ptqflow.artifacts.datasets import data_files
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.models import of_part, source_files
from ptqflow.artifacts.provenance import differences
from ptqflow.chunks import chunk_layers
from ptqflow.errors import ArtifactError, PtqflowError
from ptqflow.sources import Source
from ptqflow.study import Study, layers_of


@dataclass(frozen=True)
class Asked:
    """What a study asks of the files of one model and recipe (or `baseline`) on another platform."""

    study: Study
    platform: str
    model: str
    recipe: str

    def reason(self, kind: str, who: dict[str, Any], path: str) -> str | None:
        """Why a file of the tables' `kind`, which speaks of `who`, is left out; None where it is what the study asks for."""
        try:
            return self._of_model() or self._of_recipe(who) or getattr(self, f"_{kind}")(who, path)
        except (PtqflowError, KeyError, TypeError, AttributeError) as error:
            return f"what it was made from cannot be told ({type(error).__name__}: {error})"

    @cached_property
    def _float(self) -> Manifest:
        return Manifest.read(paths.model(self.model))

    def _of_model(self) -> str | None:
        """The fetched model is the study's: by name of its source, and by content where that is here."""
        source = self.study.models[self.model].source
        if source.path is None:
            same = self._float.origin["source"] == {"repo": source.repo, "revision": source.revision}
        else:
            here = {name: HashCache().sha256(Path(source.path) / name) for name in of_part(source_files(source.path), "models")}
            there = {name: entry.sha256 for name, entry in self._float.files.items()}
            same = self._float.origin["source"] == {"path": Path(source.path).resolve().name} and here == there
        return None if same else "made from another model"

    def _of_recipe(self, who: dict[str, Any]) -> str | None:
        """The checkpoint is of this recipe, this model and this calibration."""
        if self.recipe == "baseline":
            return None
        origin = Manifest.read(self._manifest(who)).origin
        recipe = self.study.recipes[self.recipe].model_copy(update={"calibration": None}).dump()
        if origin["settings"]["recipe"] != recipe:
            return "made by another recipe"
        if list(differences(origin["inputs"], {"model": self._files()})):
            return "made from another model"
        return self._of_calibration(origin)

    def _of_calibration(self, origin: dict[str, Any]) -> str | None:
        calibration = self.study.calibrations[self.study.calibration_of(self.recipe)]
        recorded = origin["calibration_set"]
        same = recorded["settings"] == calibration.model_dump(mode="json") and recorded["data"] == _hashes(calibration.source)
        return None if same else "calibrated otherwise"

    def _manifest(self, who: dict[str, Any]) -> str:
        variant = "baseline" if self.recipe == "baseline" else f"{self.recipe}.{who.get('form') or 'fake'}"
        return paths.checkpoint(self.platform, self.model, variant)

    def _files(self) -> dict[str, str]:
        """sha256 by name of the files of what the recipe quantizes: the float model, or that model rotated."""
        source = self._float
        if (name := self.study.source_of(self.model, self.recipe)) != self.model:
            of_float = {file: entry.sha256 for file, entry in source.files.items()}
            source = Manifest.read(paths.model(name))
            if list(differences(source.origin["inputs"], {"model": of_float})):
                raise ArtifactError(f"{paths.model(name)} is another model, rotated")
        return {file: entry.sha256 for file, entry in source.files.items()}

    def _of_checkpoint(self, who: dict[str, Any], metadata: dict[str, Any]) -> str | None:
        same = metadata["inputs"]["checkpoint"] == HashCache().sha256(self._manifest(who))
        return None if same else "made from another checkpoint"

    def _checkpoints(self, who: dict[str, Any], path: str) -> str | None:
        return None

    def _verification(self, who: dict[str, Any], path: str) -> str | None:
        return self._of_checkpoint(who, read_metadata(path))

    def _latency(self, who: dict[str, Any], path: str) -> str | None:
        metadata = read_metadata(path)
        same = metadata["settings"] == self.study.latency[who["timing"]].asked(self.model)
        return self._of_checkpoint(who, metadata) or (None if same else "measured otherwise")

    def _scores(self, who: dict[str, Any], path: str) -> str | None:
        scored = read_metadata(path)
        generated, task = scored["generated"], self.study.tasks[who["task"]]
        definition, settings = task.definition, generated["settings"]
        data = {name: digest for name, digest in generated["inputs"].items() if name != "checkpoint"}
        asked = {
            "benchmark": (settings["benchmark"], task.benchmark),
            "source": (settings["source"], task.model_dump(mode="json", include={"source"})["source"]),
            "data": (data, {name: digest for source in task.read for name, digest in _hashes(source).items()}),
            "protocol": (settings["protocol"], _whole(task.PROTOCOL, definition.defaults, task.asks)),
            "engine and seed": ((settings["engine"], settings["seed"]), (who["engine"], who["seed"])),
            "version": (scored["settings"]["version"], definition.version),
            "metric": (scored["settings"]["metric"], _whole(task.METRIC, definition.defaults, task.metric)),
        }
        other = [name for name, (recorded, wanted) in asked.items() if _json(recorded) != _json(wanted)]
        return self._of_checkpoint(who, generated) or (f"asked with another {', another '.join(other)}" if other else None)

    def _diagnostics(self, who: dict[str, Any], path: str) -> str | None:
        metadata = read_metadata(path)
        layers = chunk_layers(layers_of(self.study, self.model), self.study.models[self.model].chunks)[who["chunk"]]
        recipe = self.study.recipes[self.recipe].model_copy(update={"calibration": None}).for_layers(layers).dump()
        settings = dict(metadata["settings"])
        if not settings.pop("layer_errors", True) and self.study.measures_errors(self.recipe):
            return "made without errors of layers"
        if settings != {"recipe": recipe, "chunk": who["chunk"], "layers": [layers.start, layers.stop]}:
            return "made by another recipe or in other chunks"
        if list(differences(metadata["inputs"], {"model": self._files()})):
            return "made from another model"
        return self._of_calibration(metadata)

    def _statistics(self, who: dict[str, Any], path: str) -> str | None:
        collected = Manifest.read(path).origin
        if list(differences(collected["inputs"], {"model": self._files()})):
            return "made from another model"
        return self._of_calibration(collected)

    _losses = _diagnostics  # of the same job

    def _rescues(self, who: dict[str, Any], path: str) -> str | None:
        metadata = read_metadata(path)
        recipe = self.study.recipes[self.recipe].model_copy(update={"calibration": None}).dump()
        if metadata["asked"] != {"recipe": recipe}:
            return "made by another recipe"
        if list(differences(metadata["inputs"], {"model": self._files()})):
            return "made from another model"
        return self._of_calibration(metadata)


def read_metadata(path: str) -> dict[str, Any]:
    """As `artifacts.tables`, whose import is slow: a study of one platform never asks."""
    from ptqflow.artifacts import tables

    return tables.read_metadata(path)


def _json(value: Any) -> Any:
    """As it is once written and read."""
    return json.loads(json.dumps(value))


def _whole(model: Any, defaults: Any, own: dict[str, Any]) -> dict[str, Any]:
    """The keys of a protocol or metric with those that a benchmark, else the model, fills in."""
    known = {key: value for key, value in defaults.items() if key in model.model_fields}
    return dict(model.model_validate(known | own).model_dump())


def _hashes(source: Source) -> dict[str, str]:
    """sha256 of the files that hold a source's rows, by path; of a hub's, the revision says it."""
    cache = HashCache()
    return {str(file): cache.sha256(file) for file in data_files(source)} if source.local is not None else {}
