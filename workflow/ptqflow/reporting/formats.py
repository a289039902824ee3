"""What a recipe costs whatever its method, by its scheme: recipes of one format are compared at equal bits."""

from collections import defaultdict
from collections.abc import Iterator
from typing import get_args

from ptqflow.linears import LinearName
from ptqflow.recipes import Recipe
from ptqflow.scheme import ActivationArgs, WeightArgs

_LINEARS = sorted(get_args(LinearName))
_UNNAMED = -1  # any layer that no override names


def format_of(recipe: Recipe) -> str:
    """What a recipe costs whatever its method, overrides included: `W4A16 g128`, `W8A8KV8`, `K8V4`, `W4A4, o_proj W8A8`.

    Bits and groups alone: zero points, and where ranges come from, cost next to nothing.
    """
    weights, inputs, cache = recipe.scheme.weights, recipe.scheme.input_activations, recipe.scheme.kv_cache
    name = _bits(weights, inputs) if weights or inputs else ""
    if cache is not None:
        keys, values = cache.bits.values()
        name += f"KV{keys}" if keys == values else f"K{keys}V{values}"
    return ", ".join([name + _groups(weights), *_exceptions(recipe)])


def _exceptions(recipe: Recipe) -> Iterator[str]:
    """Where linears cost something else than the scheme says, and what, as all overrides leave it: however they are written."""
    usual = dict.fromkeys(_LINEARS, _cost(recipe.scheme.weights, recipe.scheme.input_activations))
    named = {layer for override in recipe.overrides if override.layers != "all" for layer in override.layers}
    places = defaultdict[tuple[str, str], list[int]](list)
    for layer in (_UNNAMED, *sorted(named)):
        costs = {name: _cost(recipe.weights(layer, name), recipe.input_activations(layer, name)) for name in _LINEARS}
        for cost in dict.fromkeys(costs.values()):
            if found := [name for name in _LINEARS if costs[name] == cost != usual[name]]:
                places["all" if found == _LINEARS else " ".join(found), cost].append(layer)
        usual = costs if layer == _UNNAMED else usual
    for (linears, cost), layers in places.items():
        of_layers = f" of layers {' '.join(map(str, layers))}" if layers != [_UNNAMED] else ""
        yield f"{linears}{of_layers} {cost}"


def _cost(weights: WeightArgs | None, inputs: ActivationArgs | None) -> str:
    return _bits(weights, inputs) + _groups(weights)


def _bits(weights: WeightArgs | None, inputs: ActivationArgs | None) -> str:
    return "".join(f"{letter}{16 if args is None else args.num_bits}" for letter, args in (("W", weights), ("A", inputs)))


def _groups(args: WeightArgs | None) -> str:
    return f" g{args.group_size}" if args is not None and args.group_size is not None else ""
