"""The files of a study that the tables are made of, as they will lie on a platform."""

from collections.abc import Iterator
from itertools import filterfalse, product
from typing import Any

from ptqflow import paths, replicate_names
from ptqflow.study import Study, config_of


def expected(study: Study, platform: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Kind, identity and path of every file of the study on a platform that `aggregate` can read."""
    if any(study.recipes[recipe].relies_on() for recipe in study.chosen):
        yield "selftest", {"platform": platform}, paths.selftest(platform)
    for model in study.models:
        place, architecture = {"platform": platform, "model": model}, config_of(study, model)
        yield "checkpoints", place | {"recipe": "baseline"}, paths.checkpoint(platform, model, "baseline")
        for recipe, form in study.checkpoints(architecture):
            variant = f"{recipe}.{form}"
            yield "checkpoints", place | _who(variant), paths.checkpoint(platform, model, variant)
            if not _is_replicate(variant):
                yield "verification", place | _who(variant), paths.verification(platform, model, variant)
        for (source, calibration), recipes in _collected(study, model).items():
            rotation = {"rotation": source.partition(".")[2]} if source != model else {}
            who = place | rotation | {"calibration": calibration, "recipes": recipes}
            yield "statistics", who, paths.calibration(platform, source, calibration)
        for suite in study.suites.values():
            for variant, task, seed in product(study.variants(suite, architecture), suite.tasks, suite.seeds):
                path = paths.scores(platform, model, variant, suite.engine, task, seed)
                yield "scores", place | _who(variant) | {"engine": suite.engine, "task": task, "seed": seed}, path
            accuracy = [task for task in suite.tasks if study.tasks[task].definition.kind != "perplexity"]
            for size, task, seed in product(suite.noise_batch_sizes, accuracy, suite.seeds):
                path = paths.scores(platform, model, paths.repeated(size), suite.engine, task, seed)
                run = {"engine": suite.engine, "task": task, "seed": seed, "batch_size": size}
                yield "scores", place | {"recipe": "baseline"} | run, path
        for timing, entry in study.latency.items():
            for variant in filterfalse(_is_replicate, study.variants(entry, architecture)):
                path = paths.latency(platform, model, variant, entry.engine, timing)
                yield "latency", place | _who(variant) | {"engine": entry.engine, "timing": timing}, path
        for recipe in filterfalse(_is_replicate, study.chosen):
            for chunk in range(study.models[model].chunks):
                path = paths.quantized("diagnostics.parquet", platform, model, recipe, chunk)
                yield "diagnostics", place | {"recipe": recipe, "chunk": chunk}, path
                if study.recipes[recipe].learns_by_block():
                    path = paths.quantized("losses.parquet", platform, model, recipe, chunk)
                    yield "losses", place | {"recipe": recipe, "chunk": chunk}, path
            if study.recipes[recipe].rescue is not None:
                yield "rescues", place | {"recipe": recipe}, paths.rescued("rescue.parquet", platform, model, recipe)


def _collected(study: Study, model: str) -> dict[tuple[str, str], list[str]]:
    """What `collect` walks for the recipes themselves: (model, rotated or not; calibration set) -> the recipes that read it."""
    found: dict[tuple[str, str], list[str]] = {}
    for recipe in filterfalse(_is_replicate, study.chosen):
        entry = study.recipes[recipe]
        later = study.models[model].chunks > 1 and study.runs_states(recipe)
        if later or entry.reads_statistics() or entry.rescue is not None:
            found.setdefault((study.source_of(model, recipe), study.calibration_of(recipe)), []).append(recipe)
    return found


def _who(variant: str) -> dict[str, Any]:
    """Recipe, form and replicate of a variant; the baseline has no form, and a recipe itself is no replicate."""
    name, _, form = variant.partition(".")
    recipe, replicate = replicate_names.split(name)
    return {"recipe": recipe} | ({"form": form} if form else {}) | ({"replicate": replicate} if replicate else {})


def _is_replicate(variant: str) -> bool:
    """Whether it serves to be scored alone."""
    return "replicate" in _who(variant)
