"""Which checkpoints a study asks for, after all overlays: those of recipes that it had before stay in the same folders.

Snakemake's Snakefile alone knows, and leaves it for the end of the run; a plan leaves nothing.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from ptqflow import paths
from ptqflow.artifacts.atomic import write_text
from ptqflow.study import Study, config_of

FILE = Path(".ptqflow/asked")
_OF_RECIPES = ("quantized", "rescued", "checkpoints", "verification", "generations", "scores", "latency")  # .../MODEL/RECIPE
# Options of Snakemake's that run no job: what they print is the answer.
PLANS_ONLY = {
    *("-n", "--dry-run", "--dryrun", "--unlock", "--summary", "-S", "--detailed-summary", "-D", "--lint", "--version", "-v"),
    *("--dag", "--d3dag", "--rulegraph", "--filegraph", "--print-compilation", "--containerize", "--list-conda-envs"),
    *("--list-rules", "--list", "-l", "--list-target-rules", "--lt", "--list-untracked", "--lu"),
    *("--list-changes", "--lc", "--list-input-changes", "--li", "--list-params-changes", "--lp"),
}


def plans_only(options: Sequence[str]) -> bool:
    """Whether these options of Snakemake's run no job: one of `PLANS_ONLY`, or `-n` among other letters that take no value."""
    return any(option.partition("=")[0] in PLANS_ONLY or re.match("-[Ffikpqr]*n", option) for option in options)


def remember(study: Study) -> None:
    """Write down what the study in this folder asks for, a line `MODEL/RECIPE/FORM` each."""
    found = [f"{model}/{recipe}/{form}" for model in study.models for recipe, form in study.checkpoints(config_of(study, model))]
    with suppress(OSError):  # a folder that cannot be written
        write_text(FILE, "\n".join(found))


def of_checkpoints(study: Path, manifests: Iterable[Path]) -> list[Path]:
    """Those manifests of checkpoints that a study's folder asks for; all where that is not known."""
    known = _known(study)
    return [path for path in manifests if known is None or "/".join(path.parts[-4:-1]) in known]


def of_logs(study: Path, logs: Iterable[Path]) -> list[Path]:
    """Those logs that are of no recipe, or of one that a study's folder asks for."""
    known = _known(study)
    recipes = {name.rpartition("/")[0] for name in known or ()}

    def is_asked(log: Path) -> bool:
        _platform, stage, model, recipe, *_ = [*log.relative_to(study / paths.ROOT / "logs").parts, "", "", ""]
        recipe = recipe.partition(".")[0]
        return stage not in _OF_RECIPES or recipe.startswith("baseline") or f"{model}/{recipe}" in recipes

    return [log for log in logs if known is None or is_asked(log)]


def _known(study: Path) -> set[str] | None:
    file = study / FILE
    return set(file.read_text().splitlines()) if file.is_file() else None
