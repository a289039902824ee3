"""Which models, recipes and tasks of a study are the ones whose numbers were published (`resources/reference`)."""

from typing import Any

from ptqflow.evaluation.tasks import Task
from ptqflow.presets import PRESETS, resolve
from ptqflow.recipes import Recipe
from ptqflow.study import Study

_TASKS = {"gpqa": "gpqa-diamond", "livecodebench": "livecodebench-v4-v5"}
_WINDOW = "test[45].jsonl"


def published_names(study: Study) -> dict[str, dict[str, str]]:
    """Our name -> the published one, of models, recipes and tasks. A model is known by its folder or repository; a recipe agrees
    if it is a preset's, calibration aside; a task if it is asked whole, in the published data set.
    """
    places = {name: (entry.source.repo or entry.source.path or "").rstrip("/") for name, entry in study.models.items()}
    models = {name: place.rpartition("/")[2].removeprefix("Meta-") for name, place in places.items()}
    presets = {name: resolve({"preset": name}) for name in PRESETS}
    recipes = {"baseline": "baseline"}
    for name in study.chosen:
        if preset := next((preset for preset, recipe in presets.items() if _bare(recipe) == _bare(study.recipes[name])), None):
            recipes[name] = preset
    tasks = {name: known for name, entry in study.tasks.items() if (known := _task(entry))}
    return {"models": models, "recipes": recipes, "tasks": tasks}


def _bare(recipe: Recipe) -> dict[str, Any]:
    """A recipe without what it calibrates on; of the grammar's keys alone."""
    return recipe.model_dump(include=set(Recipe.model_fields) - {"calibration"})


def _task(entry: Task) -> str | None:
    """The published name of a task; None for a part of one, for other windows and subsets, behind examples, and of likelihoods
    that are asked or compared otherwise than by default.
    """
    usual = type(entry).model_validate({"benchmark": entry.benchmark, "source": entry.source})
    default = usual.asks | usual.metric
    departures = {key for key, value in (entry.asks | entry.metric).items() if default.get(key) != value}
    if departures & {"limit", "examples"} or (departures and entry.definition.kind != "generation"):
        return None
    subsets = {(source.subset or source.file or "").lower() for source in entry.sources}
    if entry.benchmark == "arc":
        return subsets.pop() if len(subsets) == 1 else None
    if entry.benchmark == "gpqa":
        return _TASKS["gpqa"] if all("diamond" in subset for subset in subsets) else None
    if entry.benchmark == "livecodebench":
        return _TASKS["livecodebench"] if subsets == {_WINDOW} else None
    return entry.benchmark
