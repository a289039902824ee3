"""How a form stores a checkpoint: the protocol that its `Layout` implements, its writer uses and verification reads.

A checkpoint is made of the source's tensors one at a time: each becomes the tensors that `tensors_of` returns, and nothing else
is in it, so memory is one tensor beside the shard being written. What the file must hold is known before any number is
(`spec_of`, `spec`), and what it holds can be read back (`read`, `read_weight`), linear by linear.

To verify a checkpoint, make the same `Layout` from the float model, qparams and recipe, and

    spec = layout.spec()                        # every name the checkpoint must hold, and nothing else
    sum(s.bytes for s in spec.values())         # bytes of its tensors
    for linear in layout.linears.values():
        layout.read(checkpoint, linear)         # integers, scale, zero point as qparams hold them
        layout.read_weight(checkpoint, linear)  # dequantized, float32

with `checkpoint = Weights(folder, layout.stem)`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ptqflow.checkpoints.schemes import LinearScheme, schemes
from ptqflow.errors import ArtifactError
from ptqflow.modeling.anatomy import architecture
from ptqflow.modeling.dimensions import linear_shapes
from ptqflow.modeling.qparams import deployed
from ptqflow.modeling.weights import Weights
from ptqflow.numerics.grid import dequantize_weight, storage_dtype
from ptqflow.recipes import Recipe
from ptqflow.scheme import WeightArgs

WEIGHT = ".weight"


@dataclass(frozen=True)
class TensorSpec:
    """What an engine expects of one tensor. `low`, `high`: allowed values, inclusive; None: any finite one."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None

    @property
    def bytes(self) -> int:
        """Size of its data."""
        return math.prod(self.shape) * self.dtype.itemsize

    def mismatch(self, tensor: Tensor) -> str | None:
        """What is wrong with a tensor, or None."""
        if tensor.dtype != self.dtype:
            return f"dtype {tensor.dtype}, expected {self.dtype}"
        if tuple(tensor.shape) != self.shape:
            return f"shape {list(tensor.shape)}, expected {list(self.shape)}"
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return "not finite"
        if tensor.numel() and (self.low is not None or self.high is not None):
            lowest, highest = tensor.min().item(), tensor.max().item()
            if (self.low is not None and lowest < self.low) or (self.high is not None and highest > self.high):
                return f"values {lowest:g} to {highest:g}, expected {_bound(self.low)} to {_bound(self.high)}"
        return None


def _bound(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"


def scale_spec(dtype: torch.dtype, *shape: int) -> TensorSpec:
    """Scales: positive and finite."""
    return TensorSpec(dtype, shape, low=smallest(dtype))


def smallest(dtype: torch.dtype) -> float:
    """The smallest positive (subnormal) number of a dtype."""
    return float(torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps)


class GridWeight(NamedTuple):
    """A weight on its grid, in the convention of qparams (`numerics.grid`).

    integers [out, in] int8 (symmetric) or uint8; scale [out, groups] float32; zero_point [out, groups] like integers.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor

    def dequantized(self) -> Tensor:
        """The weight [out, in], float32."""
        return dequantize_weight(*self)


@dataclass(frozen=True)
class QuantizedLinear:
    """A quantized linear: `shape` (out, in) and `dtype` of its float weight, `groups` scales per row."""

    scheme: LinearScheme
    weights: WeightArgs
    shape: tuple[int, int]
    groups: int
    dtype: torch.dtype

    @property
    def prefix(self) -> str:
        """Its name in checkpoints, without `.weight`."""
        return self.scheme.prefix


class BaseLayout(ABC):
    """A form's checkpoint of one model and recipe. Subclasses say how one linear is stored; the rest has defaults.

    stem: how weight files are called (`stem.safetensors`, or `stem-00001-of-00003.safetensors` and an index).
    """

    stem = "model"

    def __init__(self, source: Weights, qparams: Mapping[str, Tensor], recipe: Recipe, config: Mapping[str, Any]) -> None:
        """`source`: the float model's tensors; `config`: its config.json."""
        self.source, self.qparams, self.recipe, self.config = source, qparams, recipe, config
        self.architecture, shapes = architecture(config["model_type"]), linear_shapes(config)
        self.linears: dict[str, QuantizedLinear] = {}
        for scheme in schemes(recipe, config):
            if scheme.weights is not None:
                shape = shapes[scheme.linear]
                groups = shape[1] // scheme.group_size if scheme.group_size else 1
                dtype, _ = source.header(scheme.prefix + WEIGHT)
                self.linears[scheme.prefix] = QuantizedLinear(scheme, scheme.weights, shape, groups, dtype)

    @abstractmethod
    def linear_spec(self, linear: QuantizedLinear) -> dict[str, TensorSpec]:
        """The tensors that take the place of a linear's weight, by name after its prefix (`weight_packed`)."""

    @abstractmethod
    def encode(self, linear: QuantizedLinear, weight: GridWeight) -> dict[str, Tensor]:
        """These tensors. Raises ArtifactError naming one that its dtype cannot hold."""

    @abstractmethod
    def decode(self, linear: QuantizedLinear, tensors: Mapping[str, Tensor]) -> GridWeight:
        """The weight on its grid from these tensors: the inverse of `encode`."""

    def documents(self) -> dict[str, dict[str, Any]]:
        """JSON files beside the weights, by name: `config.json`, and what else the engines of this form read."""
        return {"config.json": dict(self.config)}

    def float_spec(self, name: str) -> dict[str, TensorSpec]:
        """What a source tensor becomes that is not a quantized weight: itself."""
        dtype, shape = self.source.header(name)
        return {name: TensorSpec(dtype, shape)}

    def float_tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `float_spec`: with transforms folded in."""
        return {name: deployed(name, self.source[name], self.qparams, self.architecture)}

    def spec_of(self, name: str) -> dict[str, TensorSpec]:
        """What the source's tensor `name` becomes."""
        if (linear := self._linear(name)) is None:
            return self.float_spec(name)
        return {f"{linear.prefix}.{part}": spec for part, spec in self.linear_spec(linear).items()}

    def tensors_of(self, name: str) -> dict[str, Tensor]:
        """The tensors of `spec_of`. Raises ArtifactError where they are not as it says."""
        spec = self.spec_of(name)
        if (linear := self._linear(name)) is None:
            tensors = self.float_tensors(name)
        else:
            encoded = self.encode(linear, self.grid_weight(linear))
            tensors = {f"{linear.prefix}.{part}": tensor for part, tensor in encoded.items()}
        if wrong := sorted(tensors.keys() ^ spec.keys()):
            raise ArtifactError(f"{wrong[0]}: the tensors made of {name} and their specification differ; report this")
        for key, tensor in tensors.items():
            if mismatch := spec[key].mismatch(tensor):
                remedy = "run quantize again" if linear else "fetch the model again or use another one, then quantize it"
                raise ArtifactError(f"{key}: {mismatch}; {remedy}")
        return tensors

    def spec(self) -> dict[str, TensorSpec]:
        """Every tensor of the checkpoint."""
        return {key: spec for name in sorted(self.source.file_of) for key, spec in self.spec_of(name).items()}

    def grid_weight(self, linear: QuantizedLinear) -> GridWeight:
        """A linear's integers, scale and zero point as quantized."""
        return GridWeight(*(self.qparams[f"{linear.prefix}.{part}"] for part in GridWeight._fields))

    def read(self, checkpoint: Weights, linear: QuantizedLinear) -> GridWeight:
        """The same, read back from a checkpoint. Raises ArtifactError for a missing tensor."""
        names = {part: f"{linear.prefix}.{part}" for part in self.linear_spec(linear)}
        tensors = checkpoint.load(names.values())
        return self.decode(linear, {part: tensors[name] for part, name in names.items()})

    def read_weight(self, checkpoint: Weights, linear: QuantizedLinear) -> Tensor:
        """A linear's dequantized weight [out, in], float32, read back from a checkpoint."""
        return self.read(checkpoint, linear).dequantized()

    def _linear(self, name: str) -> QuantizedLinear | None:
        return self.linears.get(name.removesuffix(WEIGHT)) if name.endswith(WEIGHT) else None


def unsigned(linear: QuantizedLinear, weight: GridWeight) -> tuple[Tensor, Tensor]:
    """Integers and zero points on the unsigned grid [0, 2^b-1], uint8: signed ones are offset by 2^(b-1)."""
    offset = 2 ** (linear.weights.num_bits - 1) if linear.weights.symmetric else 0
    integers, zero_point = (part.to(torch.int16) + offset for part in (weight.integers, weight.zero_point))
    return integers.to(torch.uint8), zero_point.to(torch.uint8)


def on_grid(linear: QuantizedLinear, integers: Tensor, scale: Tensor, zero_point: Tensor) -> GridWeight:
    """The inverse of `unsigned`: integers and zero points as qparams hold them."""
    offset = 2 ** (linear.weights.num_bits - 1) if linear.weights.symmetric else 0
    dtype = storage_dtype(linear.weights.symmetric)
    integers, zero_point = ((part.to(torch.int16) - offset).to(dtype).contiguous() for part in (integers, zero_point))
    return GridWeight(integers, scale.contiguous(), zero_point)


def stored_scale(linear: QuantizedLinear, weight: GridWeight, dtype: torch.dtype) -> Tensor:
    """A linear's scales [out, groups] in the dtype that a form stores, rounded once.

    Raises ArtifactError where that overflows or vanishes; a group that holds nothing but zeros gets the smallest scale there is.
    """
    exact, stored = weight.scale, weight.scale.to(dtype)
    zeros = (weight.integers.unflatten(1, (exact.shape[1], -1)) == weight.zero_point.unsqueeze(-1)).all(-1)
    stored = torch.where(zeros, stored.clamp(min=smallest(dtype)), stored)
    lost = ~stored.isfinite() | (stored <= 0)
    if lost.any():
        raise ArtifactError(
            f"{linear.prefix}: the scale {exact[lost][0].item():g} does not fit {str(dtype).removeprefix('torch.')}; "
            "use a form that stores scales in the model's dtype (compressed-tensors), or a bfloat16 model"
        )
    return stored
