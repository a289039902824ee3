"""A cache that holds keys and values as 8-bit integers on static grids, and attention that reads them: k ≈ (q - z) s.

Every read gives the numbers of `modeling.cache.CacheQuantizer`: a cache only stores what that one computes anew at each read.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ptqflow.numerics.convention import Grid
from ptqflow.numerics.grid import dequantize, quantize

_GRID = Grid(8, symmetric=True)


class CacheScale(NamedTuple):
    """Scale and zero point, float32, broadcasting against [batch, kv_heads, tokens, head_dim]."""

    scale: Tensor
    zero_point: Tensor

    def integers(self, x: Tensor) -> Tensor:
        """x on the grid, int8."""
        return quantize(x, self.scale, self.zero_point, _GRID).to(torch.int8)


class CacheScales(NamedTuple):
    """Of one attention module, as a checkpoint has them: one each, one per head, or one per head and channel."""

    keys: CacheScale
    values: CacheScale


class IntegerCacheReader(nn.Module):
    """`cache_transform` of an attention module: integers of an `IntegerCache` as numbers; of no cache, numbers on the grid."""

    def __init__(self, keys: CacheScale, values: CacheScale, dtype: torch.dtype) -> None:
        super().__init__()
        self.keys, self.values, self.dtype = keys, values, dtype

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Both [batch, kv_heads, tokens, head_dim], in the model's dtype."""
        return self._read(self.keys, key), self._read(self.values, value)

    def _read(self, grid: CacheScale, x: Tensor) -> Tensor:
        integers = x if x.dtype == torch.int8 else grid.integers(x)
        return dequantize(integers, *grid).to(self.dtype)


class IntegerCache(DynamicCache):
    """A dynamic cache of int8 keys and values; who reads it must know the grids (`IntegerCacheReader`)."""

    def __init__(self, config: Any, readers: Sequence[IntegerCacheReader]) -> None:
        super().__init__(config=config)
        self.readers = readers

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values; returns all of the layer's, int8."""
        reader = self.readers[layer_idx]
        keys, values = reader.keys.integers(key_states), reader.values.integers(value_states)
        found: tuple[Tensor, Tensor] = super().update(keys, values, layer_idx, *args, **kwargs)
        return found


def attach(attention: Any, scales: CacheScales, device: torch.device, dtype: torch.dtype) -> IntegerCacheReader:
    """Let an attention module of transformers read integers (needs our attention function as its implementation)."""
    heads = attention.config.num_key_value_heads

    def broadcast(scale: CacheScale) -> CacheScale:
        shape = (-1, 1, 1) if scale.scale.numel() in (1, heads) else (heads, 1, attention.head_dim)
        return CacheScale(*(part.float().reshape(shape).to(device) for part in scale))

    reader = IntegerCacheReader(broadcast(scales.keys), broadcast(scales.values), dtype)
    attention.cache_transform = reader
    return reader
