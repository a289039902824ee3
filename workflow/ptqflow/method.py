"""What a method says of itself: one class per kind of method, whose fields are its settings.

A method's `*_settings.py` subclasses one of them; what does the work is in the file beside it (`by_name`).
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ptqflow.datamodel import Model
from ptqflow.linears import SiteName

if TYPE_CHECKING:
    from ptqflow.recipes import Recipe

Need = Literal["gram", "mean_abs", "absmax", "states"]
FROM_STATES: frozenset[Need] = frozenset({"gram", "mean_abs", "states"})  # found by running all states through a block
PLAIN = {"rotation": "none", "transform": "none", "clip": "none", "rounding": "rtn"}  # what a recipe does that names no other


class Method(Model):
    """What a method says of itself: its settings are the fields; the rest are facts for those who run it.

    `needs`, of the calibration set: `gram`, XᵀX of each distinct input; `mean_abs` and `absmax`, mean|x| and max|x| by channel;
    `states`, those that enter a block and what the float block makes of them.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    name: str

    def conflict(self, recipe: "Recipe") -> str | None:
        """Why it does not go with the rest of a recipe (`what; remedy`), or None."""
        return None


class Rotation(Method):
    """An orthogonal matrix that turns the residual stream of a whole model before anything else (`rotation(width, settings)`)."""

    @property
    def label(self) -> str | None:
        """Its settings as part of a folder's name; None where nothing is turned."""
        if self.name == PLAIN["rotation"]:
            return None
        others = (f"{key}-{value}" for key, value in self.model_dump(mode="json", exclude={"name"}).items())
        return re.sub(r"[^A-Za-z0-9_-]", "_", "-".join([self.name, *others]))


class Transform(Method):
    """A function-preserving change of a block's weights and inputs.

    `works`: by_site, a channel scale per distinct input (`methods.scaling`); by_block, learned from the whole block
    (`methods.learned`) on `least_sequences` or more. `changes`: the settings that single layers may change.
    """

    works: ClassVar[Literal["nowhere", "by_site", "by_block"]] = "nowhere"
    least_sequences: ClassVar[int] = 1
    changes: ClassVar[type[Model] | None] = None

    def rungs(self) -> dict[str, dict[str, Any]]:
        """`changes` by which a block that came out badly may be learned again, by name, in the order in which they are tried."""
        return {}

    @property
    def online_sites(self) -> list[SiteName]:
        """Distinct inputs that are transformed while the model runs, keys and queries with them (`modeling.online`)."""
        return []


class Clip(Method):
    """How the ranges of weights are clipped (`clipped_range`).

    Or how that is found on sequences held out: for a whole block from `candidates`, linear by linear by the algorithm's `choose`.
    `roundings`: how often a block is rounded to find it. `least_sequences`: how many it takes. `by_row`: rows have own ranges.
    """

    least_sequences: ClassVar[int] = 1
    by_row: ClassVar[bool] = False

    def conflict(self, recipe: "Recipe") -> str | None:
        """One scale for all rows, where they have ranges of their own."""
        if self.by_row and any(args.strategy == "tensor" for args in recipe.all_weights()):
            return f"clip {self.name} works row by row; use weights.strategy group or channel, or clip mse"
        return None

    @property
    def roundings(self) -> int:
        """Of a block, until it is quantized."""
        return 1

    @property
    def most_lost(self) -> float:
        """The share of a weight that it may cut off where inputs, or few errors, count more; 0: it is as near as rounding is."""
        return 0.0

    def candidates(self) -> Mapping[str, "Clip"]:
        """By which a whole block is quantized before it takes the best; empty where there is nothing to choose from."""
        return {}

    def held_out_of(self, sequences: int) -> int:
        """How many, the last, of so many calibration sequences choose, and so take no part in what they choose from."""
        return 0

    def covers(self, linear: str) -> bool:
        """Whether a linear's weight is clipped."""
        return True


class Rounding(Method):
    """How weights are put on their grid (`round_weights`)."""

    @property
    def steps(self) -> float:
        """How far it may move a weight, in root mean square steps of its full range's grid (`checkpoints.distance`)."""
        return 1.0

    @property
    def real_zero_points(self) -> bool:
        """Whether the zero points of asymmetric weights are real numbers (float32) instead of integers of the grid."""
        return False

    @property
    def orders_columns(self) -> bool:
        """Whether columns are visited in another order than they are stored in."""
        return False

    @property
    def damping(self) -> float | None:
        """Fraction of the Hessian's mean diagonal that is added, where there is a Hessian."""
        return None

    def ridge_at(self, tokens_per_channel: float) -> float | None:
        """How much weights resist being corrected for the error of earlier layers (`methods.asymmetric`); None: they are not."""
        return None

    @property
    def weighs_by_attention(self) -> bool:
        """Whether, for q_proj, k_proj and v_proj, tokens count by the attention that they receive."""
        return False

    @property
    def asymmetric(self) -> bool:
        """Whether weights are corrected for the error of earlier layers before they are rounded."""
        return self.ridge_at(1.0) is not None
