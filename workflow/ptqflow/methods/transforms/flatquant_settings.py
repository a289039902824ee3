"""Settings of `methods.transforms.flatquant`, what it needs, conflicts with and leaves to do while the model runs."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ptqflow.datamodel import Model, Seed
from ptqflow.linears import SiteName
from ptqflow.method import Need, Transform
from ptqflow.recipes import Recipe


class FlatQuantChanges(Model):
    """What some layers learn by instead of the recipe's own."""

    epochs: Annotated[int, Field(ge=0)] | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    scale_learning_rate: Annotated[float, Field(gt=0)] | None = None
    clip_learning_rate: Annotated[float, Field(gt=0)] | None = None
    parametrization: Literal["direct", "svd"] | None = None
    seed: Seed | None = None


class FlatQuantTransform(Transform):
    """Learned Kronecker transforms, channel scales and clips, block by block (FlatQuant); AdamW with cosine annealing per step.

    `batch_size` and `held_out` (the share, of no more than `held_out_at_most`, that judges and is not trained on) count
    calibration sequences;
    `learning_rate` is the matrices' (null: 1e-2 for their entries, 5e-3 for rotations, see `parametrization`);
    `smoothing_strength` initializes the channel scales as SmoothQuant would, which learn by `scale_learning_rate` (null: by the
    matrices'); `clip_logit` the clips, to its sigmoid.
    `parametrization`: the matrices' entries (direct), or U diag(s) Vᵀ with Cayley rotations and s within 0.01 to 100 (svd).
    `matmul_precision`, as torch has it: `high` rounds operands of a step's products to TF32 on GPUs and to HF32 on NPUs (what is
    learned is judged, and folded, in float32 or better).
    `guarded`: false ends at the last step whatever it is, as the reference does. `emulate`: a switch of `numerics.switches` under
    which it is learned; those of the inverse concern directly learned matrices (the reference takes no other inverse).
    Inputs of linears that `sites` leave out are neither transformed nor clipped.
    """

    works: ClassVar = "by_block"
    needs: ClassVar[frozenset[Need]] = frozenset({"states", "absmax"})
    least_sequences: ClassVar[int] = 2
    changes: ClassVar[type[Model]] = FlatQuantChanges

    name: Literal["flatquant"]
    sites: Annotated[list[SiteName], Field(min_length=1)] = ["qkv", "o", "gate_up", "down"]
    epochs: Annotated[int, Field(ge=0)] = 15
    batch_size: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    scale_learning_rate: Annotated[float, Field(gt=0)] | None = None
    clip_learning_rate: Annotated[float, Field(gt=0)] = 5e-2
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.125
    held_out_at_most: Annotated[int, Field(ge=1)] = 8
    smoothing_strength: Annotated[float, Field(ge=0, le=1)] = 0.3
    clip_logit: float = 4.0
    parametrization: Literal["direct", "svd"] = "direct"
    matmul_precision: Literal["highest", "high"] = "highest"
    guarded: bool = True
    emulate: Literal["E0", "E1", "E2", "E3", "E9"] | None = None
    seed: Seed = 0

    @property
    def online_sites(self) -> list[SiteName]:
        """All that it learns for."""
        return self.sites

    @property
    def matrix_learning_rate(self) -> float:
        """The rate of the matrices: twice the reference's where their entries are learned, which served 4 bits better."""
        return self.learning_rate or (1e-2 if self.parametrization == "direct" else 5e-3)

    def held_out_of(self, sequences: int) -> int:
        """How many of the calibration sequences judge: one at least, and one is left to train on."""
        return min(max(1, round(sequences * self.held_out)), self.held_out_at_most, sequences - 1)

    def rungs(self) -> dict[str, dict[str, Any]]:
        """Rates of a fifth; at these, three times the epochs, and another seed; and the other parametrization: svd, which cannot
        run away, at the recipe's own rates or its own defaults.
        """
        rates = {"learning_rate": self.matrix_learning_rate, "scale_learning_rate": self.scale_learning_rate}
        rates |= {"clip_learning_rate": self.clip_learning_rate}
        slower = {name: rate / 5 for name, rate in rates.items() if rate is not None}
        other = {"parametrization": "svd"} if self.parametrization == "direct" else {**slower, "parametrization": "direct"}
        return {
            "slower": slower,
            "longer": {**slower, "epochs": 3 * self.epochs},
            "other_start": {**slower, "seed": self.seed + 1009},
            "other_transform": other,
        }

    def conflict(self, recipe: Recipe) -> str | None:
        """It learns its own clips, turns keys after RoPE, and changes the range of inputs as it learns."""
        cache = recipe.scheme.kv_cache
        if recipe.clip.name != "none":
            return f"transform flatquant learns its clips; use clip none instead of {recipe.clip.name}"
        if cache and (cache.keys, cache.dynamic) != ("post_rope", True):
            return "transform flatquant turns keys after RoPE; use kv_cache.keys post_rope and kv_cache.dynamic true"
        if any(not args.dynamic for args in recipe.all_inputs()):
            return "transform flatquant changes the range of inputs as it learns; use input_activations.dynamic: true"
        return None


SETTINGS = FlatQuantTransform
