"""`config.yaml` as validated data: which models, on what calibrated, by which recipes quantized, on which tasks evaluated.

Import-light (no torch): the Snakefile reads this at every parse, also in every remote job.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ptqflow import paths, replicate_names, replicates
from ptqflow.artifacts.manifests import NAME as MANIFEST
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.model_config import read_config
from ptqflow.chat import ChatSettings
from ptqflow.checkpoints.registry import FAKE
from ptqflow.checkpoints.registry import refusal as refusal_of_form
from ptqflow.checkpoints.schemes import check
from ptqflow.datamodel import Distinct, Model
from ptqflow.decide import Decide
from ptqflow.engines.refusals import refusal
from ptqflow.entries import Form, ModelEntry, Name, Served, Suite, Timing
from ptqflow.errors import ConfigError, check_all
from ptqflow.evaluation.tasks import GenerationTask, TaskConfig
from ptqflow.platforms import Platform
from ptqflow.presets import without_preset
from ptqflow.replicates import Replicated
from ptqflow.stages.fetch import Settings as ModelSource
from ptqflow.stages.tokens import Settings as CalibrationSettings

_PERIODIC = re.compile(r"(.+)\1{19}$")  # in a path, Snakemake takes it for a wildcard that grows without end


class Study(Model):
    """A whole study. Names of models, recipes, ... become folder names: letters, digits, '-' and '_'."""

    platform: Platform = "cpu"
    site: str | None = None
    models: Annotated[dict[Name, ModelEntry], Field(min_length=1)]
    calibrations: Annotated[dict[Name, CalibrationSettings], Field(min_length=1)]
    calibration: Name
    recipes: dict[Name, Annotated[Replicated, BeforeValidator(lambda e: without_preset(e) if isinstance(e, dict) else e)]]
    forms: list[Form] | dict[Form, Literal["all", "servable"] | list[Name]] = [FAKE]
    tasks: dict[Name, TaskConfig] = {}
    suites: dict[Name, Suite] = {}
    latency: dict[Name, Timing] = {}
    run: Annotated[list[Name], Distinct] | Literal["all"] = "all"
    decide: Decide = Decide()
    layer_errors: bool = True

    @model_validator(mode="after")
    def _names(self) -> "Study":
        _known("calibration", [self.calibration], self.calibrations)
        for name, recipe in self.recipes.items():
            if name == "baseline":
                raise ValueError("recipes.baseline: this name is the unquantized model's; rename the recipe")
            if unsaid := [switch for switch in recipe.switches if switch not in name.split("-")]:
                switch = "-".join(unsaid)
                raise ValueError(f"recipes.{name} emulates {switch}, which every table row must say; name it {name}-{switch}")
            if recipe.calibration:
                _known(f"recipes.{name}.calibration", [recipe.calibration], self.calibrations)
            read = recipe.calibration or self.calibration
            if recipe.replicates > 1 and not replicates.is_drawn(recipe):
                raise ValueError(f"recipes.{name}.replicates: nothing of this recipe is drawn, so all are alike; leave it out")
            for kind, method in (("transform", recipe.transform), ("clip", recipe.clip)):
                if name in self.chosen and self.calibrations[read].samples < (least := method.least_sequences):
                    who = f"recipes.{name} ({kind} {method.name})"
                    raise ValueError(f"calibrations.{read}.samples: {who} learns from {least} sequences or more; use as many")
        for kind in ("models", "calibrations", "recipes", "tasks", "latency"):
            if periodic := [name for name in getattr(self, kind) if _PERIODIC.search(name)]:
                raise ValueError(
                    f"{kind}.{periodic[0]}: Snakemake takes no name whose end is there 20 times in a row; shorten it"
                )
        if "average" in self.tasks:
            raise ValueError("tasks.average: this name is the tables' column of averages; rename the task")
        runs: dict[tuple[str, str, int], str] = {}
        for name, suite in self.suites.items():
            _known(f"suites.{name}.tasks", suite.tasks, self.tasks)
            for run in ((suite.engine, task, seed) for task in suite.tasks for seed in suite.seeds):
                if run in runs:
                    raise ValueError(f"suites.{name}: task {run[1]} at seed {run[2]} is in suites.{runs[run]} already; drop one")
                runs[run] = name
        if self.run != "all":
            _known("run", self.run, self.recipes)
        for kind, entries in (("suites", self.suites), ("latency", self.latency)):
            for name, served in entries.items():
                _known(f"{kind}.{name}.forms", served.forms, {FAKE: None, **self._forms()})
                if isinstance(served.tensor_parallel, dict):
                    _known(f"{kind}.{name}.tensor_parallel", served.tensor_parallel, self.models)
                if FAKE in served.forms and served.engine != "transformers":
                    self._check_no_switch_is_served(f"{kind}.{name}.engine", served.engine)
        engines = [suite.engine for suite in self.suites.values()] + [timing.engine for timing in self.latency.values()]
        if self.decide.engine is not None and engines:
            _known("decide.engine", [self.decide.engine], dict.fromkeys(engines))
        for form, recipes in self._forms().items():
            if form == FAKE and recipes != "all":
                raise ValueError(f"forms.{FAKE}: evaluation reads this form of every recipe; write all, or leave it out")
            if isinstance(recipes, list):
                _known(f"forms.{form}", recipes, self.recipes)
        return self

    def _check_no_switch_is_served(self, key: str, engine: str) -> None:
        if asking := [name for name in self.chosen if self.recipes[name].emulate is not None]:
            raise ValueError(
                f"{key}: {engine} cannot compute under switch {self.recipes[asking[0]].emulate} of recipes.{asking[0]}; use "
                "transformers, or leave form fake out"
            )

    def measures_errors(self, recipe: str) -> bool:
        """Whether `quantize` measures what linears and blocks lose: also where a rescue asks."""
        return self.layer_errors or self.recipes[recipe].rescue is not None

    def runs_states(self, recipe: str) -> bool:
        """Whether calibration states run through a recipe's blocks: to learn from, or to measure what is lost."""
        return self.measures_errors(recipe) or self.recipes[recipe].learns_from_states()

    @property
    def chosen(self) -> list[str]:
        """Names of the recipes to run."""
        return list(self.recipes) if self.run == "all" else list(self.run)

    @property
    def replicated(self) -> "Study":
        """The study with every replicate of its recipes as a recipe of its own."""
        recipes, calibrations = replicates.unfolded(self.recipes, self.calibrations, self.calibration)
        run = self.run
        if run != "all":
            run = [name for base in run for name in recipes if replicate_names.split(name)[0] == base]
        return self.model_copy(update={"recipes": recipes, "calibrations": calibrations, "run": run})

    def suite_of(self, engine: str, task: str, seed: int) -> Suite:
        """The one suite that asks `engine` this task at this seed."""
        return next(s for s in self.suites.values() if s.engine == engine and task in s.tasks and seed in s.seeds)

    def variants(self, served: Served, architecture: Mapping[str, Any] | None) -> list[str]:
        """`baseline` and every `recipe.form` that an engine is given, as `checkpoints`, and computes.

        Raises ConfigError where it does not and the form was asked for of these very recipes; `servable` ones are left out.
        """
        return ["baseline", *(variant for variant, reason in self._answers(served, architecture).items() if reason is None)]

    def uncomputed(self, served: Served, architecture: Mapping[str, Any] | None) -> dict[str, str]:
        """`recipe.form` of what an engine is asked for and does not compute, with the reason; errors as `variants`."""
        return {name: reason for name, reason in self._answers(served, architecture).items() if reason is not None}

    def _answers(self, served: Served, architecture: Mapping[str, Any] | None) -> dict[str, str | None]:
        """Of every `recipe.form` that an engine is asked for, why it does not compute it, or None."""
        answers: dict[str, str | None] = {}
        for recipe, form in self.checkpoints(architecture):
            if form in served.forms:
                reason = refusal(served.engine, form, self.recipes[recipe], architecture)
                if reason is not None and self._forms().get(form) != "servable":
                    raise ConfigError(f"engine {served.engine} does not compute recipe '{recipe}' in form {form}: {reason}")
                answers[f"{recipe}.{form}"] = reason
        return answers

    def tasks_asked(self) -> set[str]:
        """The tasks of all suites."""
        return {task for suite in self.suites.values() for task in suite.tasks}

    def speaking(self) -> dict[str, ChatSettings]:
        """What goes through a model's chat template, by its key: calibration sets and tasks that are used."""
        used = dict.fromkeys(self.calibration_of(recipe) for recipe in self.chosen)
        sets = {name: self.calibrations[name] for name in used if self.calibrations[name].format == "chat"}
        tasks = {
            name: task for name, task in self.tasks.items() if name in self.tasks_asked() and isinstance(task, GenerationTask)
        }
        return {f"calibrations.{name}": drawn for name, drawn in sets.items()} | {f"tasks.{name}": t for name, t in tasks.items()}

    def checkpoints(self, architecture: Mapping[str, Any] | None) -> list[tuple[str, str]]:
        """(recipe, form) of every checkpoint to write and verify; `fake` of every recipe is there, evaluation reads it.

        `architecture`: the model's config.json; None while it is not fetched. Raises ConfigError for a recipe that a form is
        asked for and cannot hold.
        """
        found = [(name, FAKE) for name in self.chosen]
        scored = {form for suite in self.suites.values() for form in suite.forms}  # replicates serve to be scored
        for form, recipes in self._forms().items():
            asked = [name for name in self.chosen if isinstance(recipes, str) or replicate_names.split(name)[0] in recipes]
            asked = [name for name in asked if form in scored or not replicate_names.split(name)[1]]
            reasons = {name: refusal_of_form(form, self.recipes[name], architecture) for name in asked}
            if recipes == "servable":
                asked = [name for name in asked if reasons[name] is None]
            check_all(lambda name, form=form, reasons=reasons: check(form, reasons[name], name), asked)  # type: ignore[misc]
            found += [(name, form) for name in asked if form != FAKE]
        return found

    def _forms(self) -> Mapping[str, str | list[str]]:
        """Form -> `all`, `servable` or names of recipes."""
        return dict.fromkeys(self.forms, "all") if isinstance(self.forms, list) else dict(self.forms)

    def source_of(self, model: str, recipe: str) -> str:
        """The model that a recipe quantizes: `model`, or `model.rotation`."""
        label = self.recipes[recipe].rotation.label
        return f"{model}.{label}" if label else model

    def calibration_of(self, recipe: str) -> str:
        """Name of the calibration set that a recipe uses."""
        return self.recipes[recipe].calibration or self.calibration


def _known(key: str, names: Iterable[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{key}: {name!r} is not defined; define it or use one of {', '.join(known) or '(none defined)'}")


def layers_of(study: Study, model: str) -> int:
    """Number of decoder blocks of a model, as stated or as its local config.json says."""
    if (layers := study.models[model].layers) is not None:
        return layers
    architecture = config_of(study, model)
    assert architecture is not None, "a local model has a config.json: source_files checked it"
    return int(architecture["num_hidden_layers"])


def model_type_of(study: Study, model: str) -> str | None:
    """`model_type` of a model, as stated or as its local config.json says; None for a hub model that does not state it."""
    entry = study.models[model]
    config = config_of(study, model) if entry.source.path is not None else None
    return str(config["model_type"]) if config is not None else entry.model_type


def config_of(study: Study, model: str) -> dict[str, Any] | None:
    """`config.json` of a model: from its local folder, or as fetched; None for a hub model that is not here yet."""
    source = study.models[model].source
    folder = Path(source.path) if source.path is not None else Path(paths.model(model)).parent
    path = folder / "config.json"
    if source.path is None and not _is_fetched(folder / MANIFEST, source):
        return None
    return read_config(folder) if path.is_file() else None


def _is_fetched(manifest: Path, source: ModelSource) -> bool:
    """Whether a folder holds this hub model, and not one that its name stood for before, or half of one."""
    if not manifest.is_file():
        return False
    return Manifest.read(manifest).origin.get("source") == {"repo": source.repo, "revision": source.revision}
