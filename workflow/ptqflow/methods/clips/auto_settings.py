"""Settings of `methods.clips.auto`, what it chooses from and what it needs."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ptqflow.errors import ConfigError
from ptqflow.method import Clip, Need
from ptqflow.methods.clips.hessian_settings import HessianClip
from ptqflow.methods.clips.mse_settings import MseClip
from ptqflow.methods.clips.none_settings import NoClip


class AutoClip(Clip):
    """None, mse or hessian, whichever loses less on the share `held_out` of the calibration sequences.

    `by` linear: for each linear by its own output, in which tokens of q, k and v count by the attention that they receive; block:
    that mixture, or one for the whole block, by the block's output.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    by_row: ClassVar[bool] = True
    least_sequences: ClassVar[int] = 4

    name: Literal["auto"]
    by: Literal["block", "linear"] = "block"
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @staticmethod
    def alternatives() -> dict[str, Clip]:
        """By name, each with its default settings."""
        return {"none": NoClip(), "mse": MseClip(name="mse"), "hessian": HessianClip(name="hessian")}

    def candidates(self) -> dict[str, Clip]:
        """The alternatives, and one of them for each linear."""
        return self.alternatives() | {"each": self.model_copy(update={"by": "linear"})} if self.by == "block" else {}

    @property
    def most_lost(self) -> float:
        """By the alternative that may lose most."""
        return max(clip.most_lost for clip in self.alternatives().values())

    @property
    def roundings(self) -> int:
        """Of a block: one per alternative and the last one; by block one per candidate and the last one's."""
        by_linear = len(self.alternatives()) + 1
        return by_linear if self.by == "linear" else len(self.alternatives()) + 2 * by_linear

    def held_out_of(self, sequences: int) -> int:
        """At least one is held out and at least one is not; by block two are not, of three or more, since candidate `each` holds
        one of these out again. Raises ConfigError where there is but one.
        """
        if sequences < 2:
            raise ConfigError(f"clip auto holds calibration sequences out, so it needs at least {self.least_sequences}; use more")
        kept = 2 if self.by == "block" and sequences > 2 else 1
        return min(max(1, round(sequences * self.held_out)), sequences - kept)


SETTINGS = AutoClip
