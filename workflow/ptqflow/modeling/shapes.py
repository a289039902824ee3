"""Whether a recipe fits a model's `config.json`, and what it makes of the shapes. Import-light (no torch)."""

from collections.abc import Mapping
from typing import Any

from ptqflow.errors import ConfigError
from ptqflow.linears import ROW_PARALLEL
from ptqflow.modeling.anatomy import architecture_of
from ptqflow.modeling.dimensions import head_dim, linear_shapes
from ptqflow.numerics.factors import kronecker_split
from ptqflow.recipes import Recipe
from ptqflow.scheme import WeightArgs


def shards_of(recipe: Recipe, linear: str) -> int:
    """Shards of a linear's input that have scales of their own: the recipe's for o_proj and down_proj, else 1."""
    return recipe.input_shards if linear in ROW_PARALLEL else 1


def kronecker_sides(site: str, channels: int, head_dim: int, shards: int) -> tuple[int, int]:
    """(left, right) sides of a site's Kronecker transform, per input shard; o_proj's are its heads and their channels.

    Raises ValueError where the channels have no split.
    """
    width = channels // shards
    return (width // head_dim, head_dim) if site == "o" else kronecker_split(width)


def _few(numbers: list[int]) -> str:
    return f"{numbers[:5]}" + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def check_recipe(recipe: Recipe, config: Mapping[str, Any], recipe_name: str, model_name: str) -> None:
    """Refuse a recipe that does not fit a model, before any job. Raises ConfigError naming key, model and remedy."""
    try:
        found = architecture_of(config)
    except ConfigError as error:
        raise ConfigError(f"model {model_name}: {error}") from None
    where = f"recipe '{recipe_name}': "
    layers, shards = int(config["num_hidden_layers"]), recipe.input_shards
    for override in recipe.overrides:
        beyond = [i for i in override.layers if i >= layers] if override.layers != "all" else []
        if beyond:
            raise ConfigError(
                f"{where}overrides name layers {_few(beyond)}, but model {model_name} has layers 0 to {layers - 1}; "
                "give the recipe `overrides` of its own for this model ([] for none), or run it on other models"
            )
    if recipe.rotation.name != "none" and any(half.after for half in found.halves):
        raise ConfigError(
            f"{where}rotation {recipe.rotation.name}: model {model_name} ({found.model_type}) has norms behind its modules, "
            "which a turned residual stream would change; use rotation none"
        )
    for linear, parts in found.fused.items():
        for override in recipe.overrides:
            named = [part for part in parts if override.linears == "all" or part in override.linears]
            if named and len(named) < len(parts):
                raise ConfigError(
                    f"{where}overrides.linears {', '.join(named)}: model {model_name} holds {', '.join(parts)} as one {linear}; "
                    "name all of them"
                )
    if config["num_attention_heads"] % shards or config["intermediate_size"] % shards:
        raise ConfigError(
            f"{where}input_shards {shards} does not divide the {config['num_attention_heads']} attention heads and "
            f"intermediate size {config['intermediate_size']} of model {model_name}; use input_shards 1"
        )
    cache = recipe.scheme.kv_cache
    if cache and cache.keys == "pre_rope" and "k_proj" not in found.linears:
        raise ConfigError(
            f"{where}kv_cache.keys pre_rope: keys of model {model_name} come out of a fused linear; use keys post_rope"
        )
    if cache and cache.key_bias == "separate" and found.key_norm and config.get("attention_bias"):
        raise ConfigError(
            f"{where}kv_cache.key_bias separate: a norm follows the key bias of model {model_name}; use key_bias keep"
        )
    shapes = linear_shapes(config)
    if recipe.transform.online_sites and (found.fused or found.norm_offset):
        raise ConfigError(
            f"{where}transform {recipe.transform.name} takes no {'fused linears' if found.fused else 'norms of 1 + weight'} "
            f"(model {model_name}, {found.model_type}); use transform smoothquant or awq"
        )
    for site in (site for site in found.sites if site.name in recipe.transform.online_sites):
        linear = site.linears[0]
        try:
            kronecker_sides(site.name, shapes[linear][1], head_dim(config), shards_of(recipe, linear))
        except ValueError as error:
            raise ConfigError(
                f"{where}transform {recipe.transform.name}: {linear} of model {model_name} (input_shards {shards}): {error}; "
                "use other input_shards or transform smoothquant"
            ) from None
    for layer in range(layers):
        for linear in found.linears:
            args = recipe.weights(layer, found.role(linear))
            if args is None or args.group_size is None:
                continue
            width = shapes[linear][1] // shards_of(recipe, linear)
            if width % args.group_size:
                sizes = [g for g in (128, 64, 32, 16) if g < args.group_size and width % g == 0]
                remedies = (["input_shards 1"] if shapes[linear][1] % args.group_size == 0 else []) + (
                    [f"group_size {sizes[0]}"] if sizes else []
                )
                raise ConfigError(
                    f"{where}weights.group_size {args.group_size} does not divide {linear} in_features {width} "
                    f"(model {model_name}, input_shards {shards}); use {' or '.join(remedies) or 'strategy channel'}"
                )


def packed_bytes(shape: tuple[int, int], args: WeightArgs, shards: int, real_zero_points: bool = False) -> int:
    """Bytes of a linear's weight at its nominal bits, 2 per scale, and per asymmetric zero point 2 or, where it is an integer of
    the grid, as many as that needs.
    """
    out_features, in_features = shape
    groups = in_features // args.group_size if args.group_size else shards
    scales = groups if args.strategy == "tensor" else out_features * groups
    bits = args.num_bits
    zero_point = 0 if args.symmetric else 2 if real_zero_points else -(-bits // 8)
    return -(-out_features * in_features * bits // 8) + scales * (2 + zero_point)
