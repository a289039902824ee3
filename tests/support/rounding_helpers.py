"""Rounding a single weight, as most tests want it."""

from types import ModuleType

from ptqflow.methods.rounding import RoundedWeight, Target


def round_one(method: ModuleType, weight, gram, args, clip, rounding, input_shards=1) -> RoundedWeight:
    """One weight by a rounding method."""
    (rounded,) = method.round_weights([Target(weight, args, clip)], gram, rounding, input_shards)
    return rounded
