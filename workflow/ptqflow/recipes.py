"""What to do to a model, as validated data: scheme x transform x clip x rounding, with per-layer overrides.

A recipe in `config.yaml` names a `preset`, or spells the grammar out, or both (its own keys win over the preset's).
Unknown keys and impossible combinations are errors before any job starts.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ptqflow.datamodel import Model
from ptqflow.scheme import ActivationArgs, Scheme, WeightArgs

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SiteName = Literal["qkv", "o", "gate_up", "down"]  # a distinct linear input of a block
ROW_PARALLEL = ("o_proj", "down_proj")  # linears whose input a tensor-parallel engine splits


class NoTransform(Model):
    """Leave activations and weights as they are."""

    name: Literal["none"] = "none"


class SmoothQuantTransform(Model):
    """s = amax|x|^a / amax|W|^(1-a) per channel, moved from activations into weights (SmoothQuant, eq. 4)."""

    name: Literal["smoothquant"]
    smoothing_strength: Annotated[float, Field(ge=0, le=1)] = 0.85
    sites: Annotated[list[SiteName], Field(min_length=1)] = ["qkv", "gate_up"]


class AwqTransform(Model):
    """s = mean|x|^r, r of n_grid points chosen by the output error of the rounded weights (AWQ).

    `duo_scaling` divides by the weights' share of their group's maximum, to the power 1 - r. `gqa_vo` also scales o_proj where
    several query heads share a value head.
    """

    name: Literal["awq"]
    n_grid: Annotated[int, Field(ge=1)] = 20
    duo_scaling: bool = False
    gqa_vo: bool = False


class FlatQuantTransform(Model):
    """Learned Kronecker transforms, channel scales and clips, block by block (FlatQuant); AdamW with cosine annealing per step.

    `batch_size` and `held_out` (the share that picks the best state and is not trained on) count calibration sequences;
    `smoothing_strength` initializes the channel scales as SmoothQuant would; `clip_logit` the clips, to its sigmoid.
    `parametrization`: the matrices' entries (direct), or U diag(s) Vᵀ with Cayley rotations and s within 0.01 to 100 (svd).
    Inputs of linears that `sites` leave out are neither transformed nor clipped.
    """

    name: Literal["flatquant"]
    sites: Annotated[list[SiteName], Field(min_length=1)] = ["qkv", "o", "gate_up", "down"]
    epochs: Annotated[int, Field(ge=0)] = 15
    batch_size: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 5e-3
    clip_learning_rate: Annotated[float, Field(gt=0)] = 5e-2
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.125
    smoothing_strength: Annotated[float, Field(ge=0, le=1)] = 0.3
    clip_logit: float = 4.0
    parametrization: Literal["direct", "svd"] = "direct"
    seed: int = 0


class NoClip(Model):
    """The full range of each group."""

    name: Literal["none"] = "none"


class MseClip(Model):
    """Shrink each group's range to the fraction that minimizes sum |w - w'|^norm."""

    name: Literal["mse"]
    norm: Annotated[float, Field(gt=0)] = 2.4
    max_shrink: Annotated[float, Field(gt=0, lt=1)] = 0.8
    n_grid: Annotated[int, Field(ge=1)] = 100


class SearchClip(Model):
    """Clamp each group to the fraction 1 - i/n_grid of its max|w| that loses the least of the group's output (AWQ).

    Fractions end before 1 - max_shrink. Linears in `skip` keep their range.
    """

    name: Literal["search"]
    n_grid: Annotated[int, Field(ge=1)] = 20
    max_shrink: Annotated[float, Field(gt=0, lt=1)] = 0.5
    skip: list[Linear] = ["q_proj", "k_proj"]


class RtnRounding(Model):
    """Round to nearest, half to even."""

    name: Literal["rtn"] = "rtn"


class GptqRounding(Model):
    """Column by column with second-order error feedback (GPTQ, algorithm 1), static groups."""

    name: Literal["gptq"]
    dampening_frac: Annotated[float, Field(gt=0, lt=1)] = 0.01
    block_size: Annotated[int, Field(ge=1)] = 128
    actorder: bool = True


Transform = Annotated[NoTransform | SmoothQuantTransform | AwqTransform | FlatQuantTransform, Field(discriminator="name")]
Clip = Annotated[NoClip | MseClip | SearchClip, Field(discriminator="name")]
Rounding = Annotated[RtnRounding | GptqRounding, Field(discriminator="name")]


class FlatQuantChanges(Model):
    """What some layers learn by instead of the recipe's own."""

    epochs: Annotated[int, Field(ge=0)] | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    clip_learning_rate: Annotated[float, Field(gt=0)] | None = None


class Override(Model):
    """Other settings for some linears of some layers; `weights: null` leaves them in high precision.

    `transform` speaks of whole layers, so it goes with `linears: all`.
    """

    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | Literal["all"] = "all"
    linears: Annotated[list[Linear], Field(min_length=1)] | Literal["all"] = "all"
    weights: WeightArgs | None = None
    input_activations: ActivationArgs | None = None
    transform: FlatQuantChanges | None = None

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
        return (self.layers == "all" or layer in self.layers) and (self.linears == "all" or linear in self.linears)


class Recipe(Model):
    """A complete recipe. `input_shards`: tensor-parallel shards that the scales of o_proj and down_proj inputs assume."""

    scheme: Scheme
    transform: Transform = NoTransform()
    clip: Clip = NoClip()
    rounding: Rounding = RtnRounding()
    overrides: list[Override] = []
    input_shards: Annotated[int, Field(ge=1)] = 1
    error_propagation: bool = True
    calibration: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.scheme.weights is None and (self.rounding.name != "rtn" or self.clip.name != "none"):
            raise ValueError(f"rounding {self.rounding.name} and clip {self.clip.name} need scheme.weights")
        if self.transform.name == "flatquant" and self.clip.name != "none":
            raise ValueError(f"transform flatquant learns its clips; use clip none instead of {self.clip.name}")
        if self.transform.name != "flatquant" and any(override.transform for override in self.overrides):
            raise ValueError(f"overrides.transform changes how flatquant learns; transform {self.transform.name} learns nothing")
        cache = self.scheme.kv_cache
        if self.transform.name == "flatquant" and cache and (cache.keys, cache.dynamic) != ("post_rope", True):
            raise ValueError("transform flatquant turns keys after RoPE; use kv_cache.keys post_rope and kv_cache.dynamic true")
        if self.transform.name == "flatquant" and any(not args.dynamic for args in self._inputs()):
            raise ValueError("transform flatquant changes the range of inputs as it learns; use input_activations.dynamic: true")
        if self.scheme.weights is None and self.transform.name == "awq":
            raise ValueError("transform awq searches by the error of rounded weights; give scheme.weights")
        weights = [self.scheme.weights, *(override.weights for override in self.overrides)]
        if self.clip.name == "search" and any(args and args.strategy == "tensor" for args in weights):
            raise ValueError("clip search works row by row; use weights.strategy group or channel, or clip mse")
        if self.scheme == Scheme():
            raise ValueError("scheme quantizes nothing; give weights, input_activations or kv_cache")
        return self

    def weights(self, layer: int, linear: str) -> WeightArgs | None:
        """Weight quantization of one linear; the last override that covers it and names `weights` wins."""
        return self._last("weights", layer, linear)

    def input_activations(self, layer: int, linear: str) -> ActivationArgs | None:
        """Input quantization of one linear, as `weights`."""
        return self._last("input_activations", layer, linear)

    def _last(self, key: str, layer: int, linear: str) -> Any:
        naming = [o for o in self.overrides if o.covers(layer, linear) and key in o.model_fields_set]
        return getattr(naming[-1] if naming else self.scheme, key)

    def _inputs(self) -> list[ActivationArgs]:
        """Every input quantization that the scheme or an override gives."""
        given = [self.scheme.input_activations, *(override.input_activations for override in self.overrides)]
        return [args for args in given if args is not None]

    def transform_of(self, layer: int) -> Transform:
        """The transform of one layer, with the changes of every override that covers it; the last one wins."""
        transform = self.transform
        for override in self.overrides:
            if override.transform is not None and (override.layers == "all" or layer in override.layers):
                transform = transform.model_copy(update=override.transform.model_dump(exclude_none=True))
        return transform

    def clip_of(self, *parts: str) -> Clip:
        """How the ranges of one linear's weight are clipped; `parts`: the linears that are fused in it, or itself."""
        return NoClip() if isinstance(self.clip, SearchClip) and set(parts) & set(self.clip.skip) else self.clip

    def for_layers(self, layers: range) -> "Recipe":
        """The recipe as these layers see it: overrides of other layers are gone, so that they cannot cause a rerun."""
        kept = [
            o.model_copy(update={"layers": o.layers if o.layers == "all" else [i for i in o.layers if i in layers]})
            for o in self.overrides
            if o.layers == "all" or any(i in layers for i in o.layers)
        ]
        return self.model_copy(update={"overrides": kept})

    def methods(self) -> list[str]:
        """Names of the method modules this recipe runs, each a file `methods/<name>.py`."""
        clip = {"clip_search"} if self.clip.name == "search" else set()
        return sorted({self.rounding.name} | ({self.transform.name} - {"none"}) | clip)

    def rounds_by_site(self) -> bool:
        """Whether linears are rounded by inputs that rounded ones before them, those of the same block too, have made."""
        return self.rounding.name == "gptq" and self.error_propagation and self.transform.name != "flatquant"

    def learns_from_states(self) -> bool:
        """Whether a method, or a static cache, looks at all states that enter a block."""
        static_cache = self.scheme.kv_cache is not None and bool(self.scheme.kv_cache.static)
        methods = self.transform.name in ("awq", "flatquant") or self.clip.name == "search" or self.rounding.name == "gptq"
        return static_cache or methods

    def reads_statistics(self) -> bool:
        """Whether anything follows from statistics of the float model (`collect`); else the first blocks need tokens alone."""
        return self.transform.name in ("smoothquant", "flatquant") or any(not args.dynamic for args in self._inputs())

    def is_weight_only(self) -> bool:
        """True when a dense checkpoint says everything: nothing is quantized, or transformed, while the model runs."""
        return self.transform.name != "flatquant" and self.scheme.kv_cache is None and not self._inputs()

    def dump(self) -> dict[str, Any]:
        """JSON data that `Recipe.model_validate` reads back to an equal recipe (fields an override leaves unset stay unset)."""
        data = self.model_dump(mode="json")
        data["overrides"] = [o.model_dump(mode="json", exclude_unset=True) for o in self.overrides]
        return data
