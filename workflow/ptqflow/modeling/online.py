"""Parameters that act at inference: FlatQuant's Kronecker transforms of linear inputs, its key transform after RoPE and its clip
ratios, and static scales of inputs and cache.

Everything is a parameter of the module it acts on, declared before weights are loaded and named in checkpoints as there:
`left_trans` [shards, left, left] and `right_trans` [shards, right, right] of a norm (acting on its output) or of o_proj and
down_proj (on their input; o_proj mixes heads only, so it has no right side); `input_clip` [shards, 2] of a linear; `k_trans`,
`q_trans` [head_dim, head_dim], `k_clip`, `v_clip` [1, 2] of `self_attn.cache_transform`. Clips are ratios (low, high) of
the range. A linear with static inputs has `input_scale` [1]; a static cache has `k_scale`, `k_zero_point`, `v_scale`,
`v_zero_point` [kv_heads, head_dim] in `self_attn.cache_transform` (`modeling.cache`).
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ptqflow.errors import ArtifactError
from ptqflow.modeling.anatomy import ATTENTION, Architecture, Site, block_prefix, of_block
from ptqflow.modeling.scopes import scope
from ptqflow.modeling.shapes import kronecker_sides, shards_of
from ptqflow.numerics.straight_through import fake_quantize_clipped
from ptqflow.recipes import Recipe
from ptqflow.scheme import CacheArgs
from ptqflow.transforms import kronecker

CASTS = "kronecker_casts"  # attribute of a module whose transform rounds between its products (`modeling.switched`)
PARTS = (
    *("left_trans", "right_trans", "input_clip", "k_trans", "q_trans", "k_clip", "v_clip"),
    *("input_scale", "k_scale", "k_zero_point", "v_scale", "v_zero_point"),
)


class FlatCache(nn.Module):
    """Keys times P and queries times P⁻ᵀ (their products stay), then keys and values quantized per token and head.

    `args` None transforms only (for identity checks).
    """

    def __init__(self, args: CacheArgs | None, head_dim: int, like: Tensor) -> None:
        super().__init__()
        self.args = args
        self.k_trans, self.q_trans = _matrix(like, head_dim), _matrix(like, head_dim)
        self.k_clip, self.v_clip = _clip(like), _clip(like)

    def unquantized(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Both [batch, kv_heads, tokens, head_dim], turned alone."""
        return key @ self.k_trans, value

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Both, as attention is to read them."""
        key, value = self.unquantized(key, value)
        if self.args is None:
            return key, value
        bits, symmetric = self.args.bits, self.args.symmetric
        key = fake_quantize_clipped(key, bits["k"], symmetric, self.k_clip)
        return key, fake_quantize_clipped(value, bits["v"], symmetric, self.v_clip)


def owner(architecture: Architecture, site: Site) -> str:
    """The module of a block that holds a site's transform: the norm that makes the site, else its one linear."""
    return site.norm or architecture.module_name(site.linears[0])


def declare(block: nn.Module, recipe: Recipe, sites: Collection[str], layer: int, quantize: bool = True) -> None:
    """Give a block of `recipe` its online parameters (identities until loaded) and the hooks that apply them.

    `sites`: names of those that are transformed. Call it after the block's linears quantize their inputs; `quantize` false leaves
    all quantizers out.
    """
    attention: Any = block.get_submodule(ATTENTION)
    found = of_block(block)
    for site in (site for site in found.sites if site.name in sites):
        linear = block.get_submodule(found.module_name(site.linears[0]))
        assert isinstance(linear, nn.Linear)
        shards = shards_of(recipe, site.linears[0])
        left, right = kronecker_sides(site.name, linear.in_features, attention.head_dim, shards)
        module = block.get_submodule(owner(found, site))
        module.register_parameter("left_trans", _matrix(linear.weight, left, shards))
        if site.name != "o":
            module.register_parameter("right_trans", _matrix(linear.weight, right, shards))
        if site.norm:
            module.register_forward_hook(_transform_output)
        else:
            module.register_forward_pre_hook(_transform_input)
        for name in site.linears:
            if quantize and recipe.input_activations(layer, found.role(name)) is not None:
                quantized: Any = block.get_submodule(found.module_name(name))
                quantized.input_clip = _clip(linear.weight, shards)
    if recipe.scheme.kv_cache is not None:
        args = recipe.scheme.kv_cache if quantize else None
        attention.cache_transform = FlatCache(args, attention.head_dim, attention.o_proj.weight)


def parameters(block: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The online parameters of a block (or model) by name."""
    return ((name, p) for name, p in block.named_parameters() if name.rpartition(".")[2] in PARTS)


def load(block: nn.Module, layer: int, qparams: Mapping[str, Tensor]) -> None:
    """Fill a block's online parameters. Raises ArtifactError naming one that `qparams` lack, or that has another shape."""
    for name, parameter in parameters(block):
        tensor = qparams.get(f"{block_prefix(layer)}{name}")
        if tensor is None or tensor.shape != parameter.shape:
            found = "nothing" if tensor is None else f"shape {list(tensor.shape)}"
            raise ArtifactError(f"{block_prefix(layer)}{name}: expected shape {list(parameter.shape)}, found {found}")
        parameter.data = tensor.to(parameter)


def names(qparams: Mapping[str, Tensor]) -> list[str]:
    """The names of `qparams` that a checkpoint carries as online parameters."""
    return sorted(name for name in qparams if name.rpartition(".")[2] in PARTS)


def _matrix(like: Tensor, n: int, shards: int | None = None) -> nn.Parameter:
    matrix = torch.eye(n, device=like.device, dtype=like.dtype)
    return nn.Parameter(matrix if shards is None else matrix.repeat(shards, 1, 1), requires_grad=False)


def _clip(like: Tensor, shards: int = 1) -> nn.Parameter:
    return nn.Parameter(torch.ones(shards, 2, device=like.device, dtype=like.dtype), requires_grad=False)


def _transform_output(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    with scope("transform"):
        return kronecker.apply(output, module.left_trans, module.right_trans, getattr(module, CASTS, None))


def _transform_input(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    right = getattr(module, "right_trans", None)
    with scope("transform"):
        return kronecker.apply(inputs[0], module.left_trans, right, getattr(module, CASTS, None)), *inputs[1:]
