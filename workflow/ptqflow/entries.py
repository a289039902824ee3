"""Entries of `config.yaml`: a model, the tasks that an engine is asked, what is timed. Import-light (no torch)."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from ptqflow.artifacts.model_config import MOST_LAYERS
from ptqflow.checkpoints.registry import FAKE
from ptqflow.datamodel import Distinct, Matching, Model, Seed
from ptqflow.stages.fetch import Settings as ModelSource
from ptqflow.stages.measure import Timed

Name = Annotated[str, Matching(r"^[A-Za-z0-9][A-Za-z0-9_-]*$", "a name of letters and digits, with _ and - within,", 100)]
Form = Annotated[str, Matching(r"^[a-z0-9-]+$", "a name of small letters, digits and -")]
Forms = Annotated[list[Form], Field(min_length=1), Distinct]  # which forms of a recipe's checkpoint an engine is given
AtLeastOne = Annotated[int, Field(ge=1)]
Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS)]


class ModelEntry(Model):
    """A model: where it comes from, and into how many independent chunks its blocks are cut.

    A hub model states its number of `layers` (decoder blocks), so that every job is known before the download. Where it states
    its `model_type`, too, its jobs rerun when that architecture's file changes, else when any architecture's does.
    """

    source: ModelSource
    chunks: Layers = 1
    layers: Layers | None = None
    model_type: str | None = None

    @model_validator(mode="after")
    def _layers_of_hub_model(self) -> "ModelEntry":
        if self.source.path is None and self.layers is None:
            raise ValueError("a hub model needs `layers`; copy num_hidden_layers from its config.json")
        return self


class Served(Model):
    """What an engine is given. `tensor_parallel`: devices that share a model's tensors, in an engine that can; of every model, or
    by model, others having one.
    """

    engine: Name = "transformers"
    forms: Forms = [FAKE]
    tensor_parallel: AtLeastOne | Annotated[dict[Name, AtLeastOne], Field(min_length=1)] = 1

    def ranks(self, model: str) -> int:
        """Devices that share this model."""
        asked = self.tensor_parallel
        return asked if isinstance(asked, int) else asked.get(model, 1)


class Suite(Served):
    """Tasks that one engine is asked, once per seed. Results of a task are its own, whatever the suite and its other tasks.

    `noise_batch_sizes`: in batches of these sizes, too, the unquantized model is asked: what changes is the noise of arithmetic.
    """

    tasks: Annotated[list[Name], Field(min_length=1), Distinct]
    seeds: Annotated[list[Seed], Field(min_length=1), Distinct] = [0]
    batch_size: AtLeastOne = 64
    noise_batch_sizes: list[AtLeastOne] = []

    @model_validator(mode="after")
    def _other_batches(self) -> "Suite":
        sizes = [self.batch_size, *self.noise_batch_sizes]
        if twice := sorted({size for size in sizes if sizes.count(size) > 1}):
            raise ValueError(f"noise_batch_sizes: {twice[0]} is asked already; name each other batch size once")
        return self


class Timing(Timed, Served):
    """What is timed of each of these forms, and how."""

    def asked(self, model: str) -> dict[str, Any]:
        """What `measure` is told of a model."""
        return self.model_dump(mode="json", exclude={"forms"}) | {"tensor_parallel": self.ranks(model)}
