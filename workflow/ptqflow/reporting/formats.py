"""What a recipe costs whatever its method, by its scheme: recipes of one format are compared at equal bits."""

from ptqflow.recipes import Override, Recipe
from ptqflow.scheme import QuantizationArgs, WeightArgs


def format_of(recipe: Recipe) -> str:
    """What a recipe costs whatever its method, overrides included: `W4A16 g128`, `W8A8KV8`, `K8V4`, `W4A4, o_proj W8A8`.

    Bits and groups alone: zero points, and where ranges come from, cost next to nothing.
    """
    weights, inputs, cache = recipe.scheme.weights, recipe.scheme.input_activations, recipe.scheme.kv_cache
    name = f"W{_bits(weights)}A{_bits(inputs)}" if weights or inputs else ""
    if cache is not None:
        keys, values = cache.bits.values()
        name += f"KV{keys}" if keys == values else f"K{keys}V{values}"
    return ", ".join([name + _groups(weights), *filter(None, map(_of_override, recipe.overrides))])


def _of_override(override: Override) -> str:
    """Where and what it changes; nothing where that costs nothing."""
    linears = "all" if override.linears == "all" else " ".join(sorted(override.linears))
    layers = "" if override.layers == "all" else f" of layers {' '.join(map(str, sorted(override.layers)))}"
    kinds = {"W": "weights", "A": "input_activations"}
    bits = [f"{letter}{_bits(getattr(override, key))}" for letter, key in kinds.items() if key in override.model_fields_set]
    return f"{linears}{layers} {''.join(bits)}{_groups(override.weights)}" if bits else ""


def _bits(args: QuantizationArgs | None) -> int:
    return 16 if args is None else args.num_bits


def _groups(args: WeightArgs | None) -> str:
    return f" g{args.group_size}" if args is not None and args.group_size is not None else ""
