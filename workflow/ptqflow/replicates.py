"""Replicates: the same recipe quantized anew from another calibration draw, with other seeds of its own.

A study unfolds them before any job is planned: replicate k of recipe `r` on calibration set `c` is a recipe `r@k` on a set `c@k`,
all seeds k higher, that is quantized, exported where it is scored, and scored; the tables join them again. What a recipe
without replicates is told is not changed by them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field

from ptqflow.datamodel import Model
from ptqflow.recipes import Recipe
from ptqflow.replicate_names import name

Seeded = TypeVar("Seeded", bound=Model)


class Replicated(Recipe):
    """A recipe of a study, and how often it is quantized: once, or from several calibration draws."""

    replicates: Annotated[int, Field(ge=1, le=100)] = 1

    def dump(self) -> dict[str, Any]:
        """As `Recipe.dump`: what quantizes is told nothing of replicates."""
        return {key: value for key, value in super().dump().items() if key != "replicates"}


def is_drawn(recipe: Recipe) -> bool:
    """Whether another calibration draw, or another seed, could make another checkpoint."""
    seeded = any("seed" in type(method).model_fields for method in recipe.methods())
    return seeded or recipe.calibrates()


def reseeded(settings: Seeded, replicate: int) -> Seeded:
    """Settings with their `seed`, if they have one, `replicate` higher."""
    seed = getattr(settings, "seed", None)
    return settings if seed is None else settings.model_copy(update={"seed": seed + replicate})


def unfolded(
    recipes: Mapping[str, Replicated], calibrations: Mapping[str, Seeded], default: str
) -> tuple[dict[str, Replicated], dict[str, Seeded]]:
    """Recipes, each followed by its replicates, and calibration sets with those that replicates draw; `default`: the set of
    recipes that name none.
    """
    found: dict[str, Replicated] = {}
    sets = dict(calibrations)
    for base, recipe in recipes.items():
        found[base] = recipe
        for replicate in range(1, recipe.replicates):
            read = recipe.calibration or default
            drawn = name(read, replicate)
            sets[drawn] = reseeded(calibrations[read], replicate)
            methods = {kind: reseeded(getattr(recipe, kind), replicate) for kind in ("rotation", "transform", "clip", "rounding")}
            found[name(base, replicate)] = recipe.model_copy(update={**methods, "calibration": drawn})
    return found, sets
