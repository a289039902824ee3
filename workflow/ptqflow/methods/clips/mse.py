"""Clip by the error of the weights: shrink each group's range to the fraction that minimizes sum |w - w'|^norm."""

from torch import Tensor

from ptqflow.methods.clips.mse_settings import MseClip
from ptqflow.numerics.observers import mse_search
from ptqflow.scheme import WeightArgs


def clipped_range(groups: Tensor, gram: Tensor | None, args: WeightArgs, clip: MseClip) -> tuple[Tensor, Tensor]:
    """Range [low, high], each [rows, groups], of weight groups [rows, groups, n]; the inputs (`gram`) are not looked at."""
    return mse_search(groups, args.grid, clip.norm, clip.max_shrink, clip.n_grid)
