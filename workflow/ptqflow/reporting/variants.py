"""Which variant of which model a file speaks of: told explicitly, never parsed from its path."""

from collections.abc import Hashable, Iterable
from typing import Annotated, Any

from pydantic import Field, model_validator

from ptqflow.datamodel import Model
from ptqflow.errors import ConfigError
from ptqflow.replicate_names import name as name_of

BASELINE = "baseline"
FEW = 16  # variants that a page has room to compare, and a figure to name, each; of more, what is best in each format counts


class Variant(Model):
    """A model as quantized by a recipe and written in a form, on a platform; recipe `baseline` is the unquantized model."""

    platform: str
    model: str
    recipe: str
    form: str | None = None
    replicate: Annotated[int, Field(ge=0)] = 0  # which calibration draw of the recipe; 0: its own

    @model_validator(mode="after")
    def _form(self) -> "Variant":
        if (self.recipe == BASELINE) != (self.form is None):
            raise ValueError(f"recipe {self.recipe!r}: the baseline has no form, every other recipe has one")
        if self.recipe == BASELINE and self.replicate:
            raise ValueError("the baseline has no replicates")
        return self

    @property
    def variant(self) -> "Variant":
        """The plain variant, without what a subclass adds: equal and hashable across kinds of files."""
        return Variant(platform=self.platform, model=self.model, recipe=self.recipe, form=self.form, replicate=self.replicate)

    @property
    def columns(self) -> dict[str, Any]:
        """Its columns in a table, where replicates of a recipe are joined."""
        return self.model_dump(exclude={"replicate"})

    @property
    def baseline(self) -> "Variant":
        """The unquantized model on the same platform."""
        return Variant(platform=self.platform, model=self.model, recipe=BASELINE)

    @property
    def label(self) -> str:
        """`recipe.form`, or `baseline`: the name of the variant in paths and messages."""
        recipe = name_of(self.recipe, self.replicate)
        return recipe if self.form is None else f"{recipe}.{self.form}"

    def __str__(self) -> str:
        return f"{self.platform}/{self.model}/{self.label}"


class Served(Variant):
    """A variant as an engine serves it: what scores and timings speak of. A baseline is the same engine's."""

    engine: str

    @property
    def served(self) -> "Served":
        """Without what a subclass adds."""
        return Served(**self.variant.model_dump(), engine=self.engine)

    @property
    def baseline(self) -> "Served":
        """The unquantized model on the same platform and engine."""
        return Served(**super().baseline.model_dump(), engine=self.engine)

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.engine})"


class Scores(Served):
    """Verdicts on one task at one seed. `batch_size`: of a baseline that was asked once more, in other batches."""

    task: str
    seed: int
    batch_size: int | None = None


class Timing(Served):
    """Timings by one entry of `latency`."""

    timing: str


class Chunk(Model):
    """Diagnostics of one chunk of decoder blocks under one recipe."""

    platform: str
    model: str
    recipe: str
    chunk: int

    def __str__(self) -> str:
        return f"{self.platform}/{self.model}/{self.recipe}/chunk={self.chunk}"


class Collected(Model):
    """Statistics of a model's activations on a calibration set, as it is or rotated, and the `recipes` that read them."""

    platform: str
    model: str
    rotation: str | None = None
    calibration: str
    recipes: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join([f"{self.platform}/{self.model}", *filter(None, [self.rotation])]) + f" on {self.calibration}"


class Rescued(Model):
    """The attempts to rescue blocks of one recipe."""

    platform: str
    model: str
    recipe: str


class Probed(Model):
    """The self-test of a platform's device."""

    platform: str


def refuse_duplicates(key: str, identities: Iterable[Hashable]) -> None:
    """Each file of settings `key` speaks of something else. Raises ConfigError naming the repeated identity."""
    seen: set[Hashable] = set()
    for identity in identities:
        if identity in seen:
            raise ConfigError(f"settings.{key}: {identity} is listed twice; list each file once")
        seen.add(identity)
