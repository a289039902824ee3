"""What each linear of a model gets from a recipe, as the schemes of all forms ask it. Import-light (no torch)."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ptqflow.errors import ConfigError
from ptqflow.method import Method
from ptqflow.modeling.anatomy import SITES, Architecture, architecture, block_prefix
from ptqflow.modeling.dimensions import linear_shapes
from ptqflow.modeling.shapes import shards_of
from ptqflow.recipes import Recipe
from ptqflow.scheme import ActivationArgs, WeightArgs


@dataclass(frozen=True)
class LinearScheme:
    """One linear of one block, and what its weight and its input are quantized to (None: left in high precision).

    `site`: what it reads; `module`: its name inside the block. `group_size` is the effective one: None where one scale serves a
    whole row; tensor scales are stored row by row.
    """

    layer: int
    linear: str
    site: str
    module: str
    weights: WeightArgs | None
    input_activations: ActivationArgs | None
    group_size: int | None

    @property
    def prefix(self) -> str:
        """Its name in checkpoints, without `.weight`."""
        return block_prefix(self.layer) + self.module

    @property
    def where(self) -> str:
        """Its name in messages."""
        return f"{self.linear} of layer {self.layer}"

    @property
    def quantization(self) -> tuple[WeightArgs | None, ActivationArgs | None, int | None]:
        """All that must agree where an engine fuses linears."""
        return self.weights, self.input_activations, self.group_size


def schemes(recipe: Recipe, config: Mapping[str, Any] | None) -> list[LinearScheme]:
    """Every linear of every block, in order.

    `config` None (a model not fetched yet): the layers that overrides name, and one more, none of their linears fused. Group
    sizes of rows that are cut into input shards need the model's shapes: without them they are -1.
    """
    named = [layer for o in recipe.overrides if o.layers != "all" for layer in o.layers]
    layers = int(config["num_hidden_layers"]) if config is not None else max(named, default=-1) + 2
    shapes = linear_shapes(config) if config is not None else None
    known = architecture(config["model_type"]) if config is not None else Architecture("", "")
    found = []
    for layer in range(layers):
        for linear in known.linears:
            role, shards = known.role(linear), shards_of(recipe, linear)
            weights, inputs = recipe.weights(layer, role), recipe.input_activations(layer, role)
            size = weights.group_size if weights else None
            if weights is not None and size is None and shards > 1:
                size = shapes[linear][1] // shards if shapes else -1
            found.append(
                LinearScheme(layer, linear, known.site_of(linear).name, known.module_name(linear), weights, inputs, size)
            )
    return found


def refusal_of_online_transforms(recipe: Recipe) -> str | None:
    """Why engines without transforms at inference cannot serve a recipe, or None."""
    if not recipe.transform.online_sites:
        return None
    return (
        f"transform {recipe.transform.name} acts while the model runs, which engines do not do in this form; "
        "evaluate form fake, or use a transform that is folded into weights"
    )


def refusal_of_packed_weights(
    recipe: Recipe, config: Mapping[str, Any] | None, format_name: str, bits: tuple[int, ...]
) -> str | None:
    """Why a weight-only format with one setting for the whole model cannot hold a recipe, or None."""
    if (reason := refusal_of_online_transforms(recipe) or refusal_of_all(recipe, config)) is not None:
        return reason
    if not recipe.is_weight_only():
        return (
            f"{format_name} checkpoints quantize weights only; use form compressed-tensors, "
            "or a recipe without input_activations and kv_cache"
        )
    found = [scheme for scheme in schemes(recipe, config) if scheme.weights is not None]
    for scheme in found:
        assert scheme.weights is not None
        if scheme.weights.num_bits not in bits:
            known = " or ".join(map(str, bits))
            return (
                f"{format_name} holds {known} bits, not {scheme.weights.num_bits} ({scheme.where}); use form compressed-tensors"
            )
        if scheme.quantization != found[0].quantization:
            return (
                f"{format_name} has one setting for the whole model, but {found[0].where} and {scheme.where} differ; "
                "use form compressed-tensors, or overrides with weights: null only"
            )
    return None


def skipped(found: list[LinearScheme]) -> dict[str, dict[str, Any]]:
    """GPTQModel's `dynamic` rules that leave alone what a recipe does not quantize."""
    return {f"-:{re.escape(scheme.prefix)}$": {} for scheme in found if scheme.weights is None}


def refusal_of_all(recipe: Recipe, config: Mapping[str, Any] | None) -> str | None:
    """Why no form but `fake` can hold a recipe, or None: what all of them lack. `reason; remedy`."""
    found = schemes(recipe, config)
    if not any(scheme.weights for scheme in found):
        return "it quantizes no weights, so that there are no integers to store; give the recipe scheme.weights"
    if recipe.rounding.real_zero_points and any(scheme.weights and not scheme.weights.symmetric for scheme in found):
        return (
            f"rounding {recipe.rounding.name} gives real zero points, and this form stores integers of the grid; "
            "evaluate form fake, or let it give integer ones (rounding.zero_point: integer)"
        )
    for scheme in found:
        if scheme.weights is None and scheme.input_activations is not None:
            return (
                f"{scheme.where} quantizes its input but not its weight, which no engine serves; "
                "give its override input_activations: null, too"
            )
    for first, other in _fused(found):
        if first.quantization != other.quantization:
            return (
                f"{first.linear} and {other.where} are quantized differently, but engines fuse them into one matrix; "
                "give both the same override"
            )
    return None


def _fused(found: list[LinearScheme]) -> Iterator[tuple[LinearScheme, LinearScheme]]:
    """Pairs of linears that engines fuse, where the checkpoint does not: those that share an input."""
    by_name = {(scheme.layer, scheme.linear): scheme for scheme in found}
    for (layer, linear), first in by_name.items():
        for site in (site for site in SITES if site.linears[0] == linear):
            yield from ((first, by_name[layer, other]) for other in site.linears[1:])


def check(form: str, refusal: str | None, recipe_name: str) -> None:
    """Raise ConfigError `recipe 'x' cannot be written as form: reason; remedy` where there is a refusal."""
    if refusal is not None:
        raise ConfigError(f"recipe '{recipe_name}' cannot be written in form {form}: {refusal}")


def in_words(recipe: Recipe, stored: str = "integers") -> str:
    """A recipe in one sentence of English. `stored`: what weights are in; of weights that only take a grid's values, `grids`."""
    scheme = recipe.scheme
    parts = []
    if (weights := scheme.weights) is not None:
        grid = {"tensor": "one scale per tensor", "channel": "one scale per row"}
        scales = grid.get(weights.strategy, f"one scale per {weights.group_size} inputs of a row")
        kept = "in" if stored == "integers" else "on"
        parts.append(f"weights {kept} {weights.num_bits}-bit {_grid(weights)} {stored}, {scales}")
    if (inputs := scheme.input_activations) is not None:
        parts.append(f"inputs of linears in {inputs.num_bits}-bit {_grid(inputs)} integers, one scale per {inputs.strategy}")
    if (cache := scheme.kv_cache) is not None:
        ranges = "one scale per token and head" if cache.dynamic is True else "one scale per channel from calibration"
        of_values = "" if cache.dynamic != "values" else ", values one per token and head"
        before = " before RoPE" if cache.keys == "pre_rope" else ""
        keys, values = cache.bits["k"], cache.bits["v"]
        bits = f"{keys}-bit" if keys == values else f"{keys}-bit and {values}-bit"
        parts.append(f"keys{before} and values in {bits} {_grid(cache)} integers, {ranges}{of_values}")
    methods = {"rounding": recipe.rounding, "rotation": recipe.rotation, "transform": recipe.transform, "clip": recipe.clip}
    how = [f"{kind} {_with_changes(method)}" for kind, method in methods.items() if method.name != "none"]
    how += [f"{len(recipe.overrides)} override(s) for some layers"] if recipe.overrides else []
    words = "; ".join(parts)
    return words[:1].upper() + words[1:] + ". Made with " + ", ".join(how) + "."


def _with_changes(method: Method) -> str:
    """Its name, and the settings that are not the defaults: `gptq (asymmetric_calibration: true)`."""
    changes = method.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
    said = ", ".join(f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in changes.items())
    return f"{method.name} ({said})" if said else method.name


def _grid(args: Any) -> str:
    return "symmetric" if args.symmetric else "asymmetric"
