"""Turn a model's residual stream by an orthogonal matrix Q, folded into its weights: the same function (QuaRot's R1).

    x' = x Q everywhere between blocks. RMS norms do not see a rotation, once their weights γ are folded into what reads them:

    embedding E' = E Q;   readers (q, k, v, gate, up) W' = W diag(γ) Q;   writers (o, down) W' = Qᵀ W, b' = b Q;
    head H' = H diag(γ) Q, a matrix of its own from now on;   γ' = 1

(γ is what a norm multiplies by: its weight, or 1 + its weight.) A norm behind a module (Gemma 2) sees the stream itself, so such
architectures are refused.

Biases of readers are added after them and stay. All of it in float64, stored once in the tensor's own dtype.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ptqflow.modeling.anatomy import EMBEDDING, HEAD, NORM, architecture_of, block_prefix
from ptqflow.modeling.blocks import Blocks, forward
from ptqflow.modeling.weights import Weights

_ROWS = 8192  # turned at once


class Rotated:
    """The tensors of `source` with its residual stream turned by `q` [hidden, hidden] (float64)."""

    def __init__(self, source: Weights, config: Mapping[str, Any], q: Tensor) -> None:
        """`config`: the model's config.json."""
        self.source, self.q = source, q
        architecture = architecture_of(config)
        self._offset = architecture.norm_offset
        self._readers: dict[str, str] = {HEAD: NORM}  # weight -> norm before it
        self._writers: set[str] = set()  # names of linears
        self._norms = {NORM}
        for layer in range(int(config["num_hidden_layers"])):
            for site in architecture.sites:
                prefixes = [architecture.linear_prefix(layer, linear) for linear in site.linears]
                if site.norm:
                    norm = f"{block_prefix(layer)}{site.norm}.weight"
                    self._norms.add(norm)
                    self._readers |= {f"{prefix}.weight": norm for prefix in prefixes}
                else:
                    self._writers |= set(prefixes)

    def exact(self, name: str, rows: Tensor | None = None) -> Tensor:
        """A tensor in float64 (`rows` of it alone: of the embedding, of the head)."""
        return self._turned(name, torch.float64, rows)

    def __getitem__(self, name: str) -> Tensor:
        """A tensor as it is stored, in the dtype of the source's."""
        return self._turned(name, self._stored(name).dtype, None)

    def _stored(self, name: str) -> Tensor:
        """The source's tensor; a model with tied embeddings stores no head."""
        return self.source[EMBEDDING if name == HEAD and HEAD not in self.source.file_of else name]

    def _turned(self, name: str, dtype: torch.dtype, rows: Tensor | None) -> Tensor:
        tensor = self._stored(name)
        tensor = tensor if rows is None else tensor[rows]
        linear, _, kind = name.rpartition(".")
        if name in self._norms:
            return torch.full_like(tensor, 1 - self._offset, dtype=dtype)
        if linear in self._writers:
            turned = self._times_q(tensor.T if kind == "weight" else tensor.unsqueeze(0), None, dtype)
            return turned.T.contiguous() if kind == "weight" else turned.squeeze(0)
        if name == EMBEDDING or name in self._readers:
            norm = self._readers.get(name)
            return self._times_q(tensor, self.source[norm].double() + self._offset if norm else None, dtype)
        return tensor.to(dtype)

    def _times_q(self, matrix: Tensor, gamma: Tensor | None, dtype: torch.dtype) -> Tensor:
        """matrix [rows, hidden] diag(gamma) Q, in float64, then `dtype`."""
        parts = (part.double() if gamma is None else part.double() * gamma for part in matrix.split(_ROWS))
        return torch.cat([(part @ self.q).to(dtype) for part in parts])


class _ExactNorm(nn.Module):
    """x / rms(x) γ in the dtype of x; the norms of transformers compute in float32."""

    def __init__(self, gamma: Tensor, epsilon: float) -> None:
        super().__init__()
        self.gamma, self.epsilon = gamma, epsilon

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.epsilon).rsqrt() * self.gamma


@torch.no_grad()
def logits(blocks: Blocks, embedded: Tensor, head: Tensor, tensor_of: Callable[[str], Tensor]) -> Tensor:
    """Logits [sequences, tokens, rows of head] of a model of the configuration of `blocks` (float64), block by block.

    `embedded` [sequences, tokens, hidden] are embeddings of tokens, `head` [rows, hidden] rows of its head.
    """
    hidden, positions, epsilon = embedded.double(), blocks.positions(embedded.shape[1]), float(blocks.config.rms_norm_eps)
    offset = blocks.architecture.norm_offset
    for layer in range(blocks.config.num_hidden_layers):
        tensors = {name: tensor_of(name) for name in blocks.tensors(layer)}
        block = blocks.build(layer, tensors)
        for norm in {site.norm for site in blocks.architecture.sites if site.norm}:
            gamma = tensors[f"{block_prefix(layer)}{norm}.weight"].double() + offset
            block.set_submodule(norm, _ExactNorm(gamma, epsilon))
        hidden = forward(block, hidden, positions)
    final: Tensor = _ExactNorm(tensor_of(NORM).double() + offset, epsilon)(hidden)
    return final @ head.double().T
