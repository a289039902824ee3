"""What to do to a model, as validated data: scheme x transform x clip x rounding, with per-layer overrides.

A recipe in `config.yaml` names a `preset`, or spells the grammar out, or both (its own keys change the preset, leaf by leaf).
Unknown keys and impossible combinations are errors before any job starts.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from ptqflow.by_name import ByName, algorithm_module, settings_class, settings_module, validated_at
from ptqflow.datamodel import Distinct, Model
from ptqflow.errors import ConfigError
from ptqflow.linears import LinearName
from ptqflow.method import FROM_STATES, PLAIN, Clip, Need, Rotation, Rounding, Transform
from ptqflow.scheme import ActivationArgs, Scheme, WeightArgs

# What of a device's arithmetic a recipe relies on (`selftest`): all of it, products and factors of Hessians, or training.
Reliance = Literal["arithmetic", "second_order", "training"]


class Override(Model):
    """Other settings for some linears of some layers; `weights: null` leaves them in high precision.

    `transform` speaks of whole layers, so it goes with `linears: all`.
    """

    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), Distinct] | Literal["all"] = "all"
    linears: Annotated[list[LinearName], Field(min_length=1), Distinct] | Literal["all"] = "all"
    weights: WeightArgs | None = None
    input_activations: ActivationArgs | None = None
    transform: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Override":
        if not self.model_fields_set & {"weights", "input_activations", "transform"}:
            raise ValueError("changes nothing; give weights or input_activations (null: high precision), or transform")
        return self

    @model_validator(mode="after")
    def _whole_layers(self) -> "Override":
        if self.transform is not None and self.linears != "all":
            raise ValueError("transform is learned by layer; give it in an override of its own with linears: all")
        return self

    def covers(self, layer: int, linear: str) -> bool:
        """Whether this override speaks of `linear` in block `layer`."""
        return self.covers_layer(layer) and (self.linears == "all" or linear in self.linears)

    def covers_layer(self, layer: int) -> bool:
        """Whether it speaks of anything in block `layer`."""
        return self.layers == "all" or layer in self.layers


class Rescue(Model):
    """Blocks whose held-out error stands out, or that learned nothing, are calibrated again, rung by rung (`methods.rescue`).

    `score`: robust standard deviations above its neighbours, and above the trend of all blocks, at which a block stands out.
    `least_gain`: share of its error before learning that a block must lose to have learned anything (0: whatever is no worse).
    `budget`: calibrations of the whole model that all attempts may cost. `at_8_bits`: share of the model's linears that may be
    raised to 8 bits. `rungs`: those of the transform, and `eight_bits`, in the order in which they are tried; null: all of them.
    """

    score: Annotated[float, Field(gt=0)] = 3.5
    least_gain: Annotated[float, Field(ge=0, lt=1)] = 0.05
    budget: Annotated[float, Field(gt=0)] = 1.5
    at_8_bits: Annotated[float, Field(ge=0, le=1)] = 0.1
    rungs: Annotated[list[str], Field(min_length=1), Distinct] | None = None


EIGHT_BITS = "eight_bits"  # the last rung: a site's linears, weights and input, at 8 bits


def _plain(kind: str) -> Any:
    return settings_class(kind, PLAIN[kind])()


Served = Literal["E4", "E7", "E8", "E11"]  # switches of `numerics.switches` that act while a model runs


class Recipe(Model):
    """A complete recipe. `input_shards`: tensor-parallel shards that the scales of o_proj and down_proj inputs assume.

    `emulate`: a switch of `numerics.switches` under which form `fake` runs; what is calibrated knows nothing of it.
    """

    scheme: Scheme
    rotation: Annotated[SerializeAsAny[Rotation], ByName("rotation")] = Field(default_factory=lambda: _plain("rotation"))
    transform: Annotated[SerializeAsAny[Transform], ByName("transform")] = Field(default_factory=lambda: _plain("transform"))
    clip: Annotated[SerializeAsAny[Clip], ByName("clip")] = Field(default_factory=lambda: _plain("clip"))
    rounding: Annotated[SerializeAsAny[Rounding], ByName("rounding")] = Field(default_factory=lambda: _plain("rounding"))
    overrides: list[Override] = []
    input_shards: Annotated[int, Field(ge=1)] = 1
    error_propagation: bool = True
    calibration: str | None = None
    rescue: Rescue | None = None
    emulate: Served | None = None

    @model_validator(mode="after")
    def _rescuable(self) -> "Recipe":
        if self.rescue is None:
            return self
        if not (known := [*self.transform.rungs()]):
            raise ValueError(f"rescue learns blocks again, and transform {self.transform.name} learns nothing; leave rescue out")
        if self.error_propagation:
            raise ValueError(
                "rescue with error_propagation would change what enters the blocks behind; use error_propagation: false"
            )
        if wrong := [rung for rung in self.rescue.rungs or [] if rung not in (*known, EIGHT_BITS)]:
            raise ValueError(f"rescue.rungs: unknown {', '.join(wrong)}; use some of {', '.join((*known, EIGHT_BITS))}")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.scheme == Scheme():
            raise ValueError("scheme quantizes nothing; give weights, input_activations or kv_cache")
        if self.scheme.weights is None and (self.rounding.name, self.clip.name) != (PLAIN["rounding"], PLAIN["clip"]):
            raise ValueError(f"rounding {self.rounding.name} and clip {self.clip.name} need scheme.weights")
        for conflict in filter(None, (method.conflict(self) for method in self.methods())):
            raise ValueError(conflict)
        changes = self.transform.changes
        for index, override in enumerate(self.overrides):
            if override.transform is None:
                continue
            if changes is None:
                raise ValueError(f"overrides.transform changes what is learned; transform {self.transform.name} learns nothing")
            validated_at(("overrides", index, "transform"), changes, override.transform)
        return self

    @model_validator(mode="after")
    def _emulable(self) -> "Recipe":
        if self.emulate in ("E4", "E7") and not set(self.transform.online_sites) - {"o"}:
            raise ValueError(f"emulate {self.emulate} is of online transforms; use transform flatquant, or leave it out")
        cache = self.scheme.kv_cache
        if self.emulate == "E11" and (cache is None or cache.keys != "post_rope"):
            raise ValueError("emulate E11 is of a cache quantized after RoPE; give kv_cache with keys post_rope, or leave it out")
        return self

    @property
    def switches(self) -> list[str]:
        """The switches of `numerics.switches` that it emulates, which its name must say."""
        return [name for name in (getattr(self.transform, "emulate", None), self.emulate) if name is not None]

    def weights(self, layer: int, linear: str) -> WeightArgs | None:
        """Weight quantization of one linear; the last override that covers it and names `weights` wins."""
        return self._last("weights", layer, linear)

    def input_activations(self, layer: int, linear: str) -> ActivationArgs | None:
        """Input quantization of one linear, as `weights`."""
        return self._last("input_activations", layer, linear)

    def quantizes(self, layer: int, linear: str) -> bool:
        """Whether it quantizes one linear's weight or input."""
        return self.weights(layer, linear) is not None or self.input_activations(layer, linear) is not None

    def _last(self, key: str, layer: int, linear: str) -> Any:
        naming = [o for o in self.overrides if o.covers(layer, linear) and key in o.model_fields_set]
        return getattr(naming[-1] if naming else self.scheme, key)

    def all_weights(self) -> list[WeightArgs]:
        """Every weight quantization that the scheme or an override gives."""
        given = [self.scheme.weights, *(override.weights for override in self.overrides)]
        return [args for args in given if args is not None]

    def all_inputs(self) -> list[ActivationArgs]:
        """Every input quantization that the scheme or an override gives."""
        given = [self.scheme.input_activations, *(override.input_activations for override in self.overrides)]
        return [args for args in given if args is not None]

    def transform_of(self, layer: int) -> Transform:
        """The transform of one layer, with the changes of every override that covers it; the last one wins."""
        transform = self.transform
        for override in self.overrides:
            if override.transform is not None and override.covers_layer(layer):
                assert transform.changes is not None, "checked when the recipe was made"
                changes = transform.changes.model_validate(override.transform)
                transform = transform.model_copy(update=changes.model_dump(exclude_none=True))
        return transform

    def clip_of(self, *parts: str) -> Clip | None:
        """How the ranges of one linear's weight are clipped; None: not at all. `parts`: what is fused in it, or itself."""
        return self.clip if all(self.clip.covers(part) for part in parts) else None

    def for_layers(self, layers: range) -> "Recipe":
        """The recipe as these layers see it: overrides of other layers are gone, so that they cannot cause a rerun.

        So are `rescue`, which looks at all blocks once they are quantized, and `emulate`, which concerns what runs.
        """
        kept = [
            o.model_copy(update={"layers": o.layers if o.layers == "all" else [i for i in o.layers if i in layers]})
            for o in self.overrides
            if any(map(o.covers_layer, layers))
        ]
        return self.model_copy(update={"overrides": kept, "rescue": None, "emulate": None})

    def changed(self, overrides: list[Override]) -> "Recipe":
        """The recipe, without `rescue`, as the overrides that a rescue found have it."""
        return self.model_copy(update={"overrides": [*self.overrides, *overrides], "rescue": None})

    def methods(self) -> tuple[Rotation, Transform, Clip, Rounding]:
        """The methods that this recipe names."""
        return self.rotation, self.transform, self.clip, self.rounding

    def settings_modules(self) -> list[str]:
        """The modules, inside the package, that reading this recipe imports by name."""
        return [settings_module(kind, getattr(self, kind).name) for kind in PLAIN]

    def algorithm_modules(self) -> list[str]:
        """Those that quantizing by it imports by name."""
        found = (algorithm_module(kind, getattr(self, kind).name) for kind in ("transform", "clip", "rounding"))
        return [module for module in found if module is not None]

    def needs(self) -> frozenset[Need]:
        """All that its methods need of the calibration set."""
        return frozenset().union(*(method.needs for method in self.methods()))

    def relies_on(self) -> frozenset[Reliance]:
        """What of the device must be right for this recipe; empty where a wrong device could only be a little off in rounding."""
        found: dict[Reliance, bool] = {"second_order": "gram" in self.needs(), "training": self.learns_by_block()}
        reliances = frozenset(reliance for reliance, relied in found.items() if relied)
        return reliances | {"arithmetic"} if reliances else reliances

    def learns_by_block(self) -> bool:
        """Whether gradients train something in every block."""
        return self.transform.works == "by_block"

    def rounds_by_site(self) -> bool:
        """Whether linears are rounded by inputs that rounded ones before them, those of the same block too, have made."""
        return "gram" in self.rounding.needs and self.error_propagation and not self.learns_by_block()

    def learns_from_states(self) -> bool:
        """Whether a method, or a static cache, looks at all states that enter a block."""
        static_cache = self.scheme.kv_cache is not None and bool(self.scheme.kv_cache.static)
        return static_cache or bool(self.needs() & FROM_STATES)

    def reads_statistics(self) -> bool:
        """Whether anything follows from statistics of the float model (`collect`); else the first blocks need tokens alone."""
        return "absmax" in self.needs() or any(not args.dynamic for args in self.all_inputs())

    def calibrates(self) -> bool:
        """Whether calibration data have a part in what it makes; else they only measure its errors."""
        return self.learns_from_states() or self.reads_statistics()

    def is_weight_only(self) -> bool:
        """True when a dense checkpoint says everything: nothing is quantized, or transformed, while the model runs."""
        online = self.transform.online_sites or self.scheme.kv_cache is not None or self.all_inputs()
        return not online and self.emulate is None

    def check_source(self, origin: Mapping[str, Any], model: str) -> None:
        """Raise ConfigError unless a model, by the `origin` of its manifest, is turned as this recipe says."""
        found, wanted = origin.get("rotation"), self.rotation.model_dump(mode="json") if self.rotation.label else None
        if found != wanted:
            raise ConfigError(
                f"{model} is turned by {found or 'nothing'}, and the recipe's rotation is {wanted or 'none'}; give the model "
                "that `rotate` made with the same settings, or the float model for a recipe without rotation"
            )

    def dump(self) -> dict[str, Any]:
        """JSON data that `Recipe.model_validate` reads back to an equal recipe (fields an override leaves unset stay unset)."""
        data = self.model_dump(mode="json")
        data["overrides"] = [o.model_dump(mode="json", exclude_unset=True) for o in self.overrides]
        for later in ("rescue", "emulate"):
            if data[later] is None:
                del data[later]  # a recipe that says nothing of it is what it was
        return data
