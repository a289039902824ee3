"""The block walker: one decoder block of a checkpoint at a time, as transformers' own module. Never the whole model."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.modeling import dimensions
from ptqflow.modeling.anatomy import ATTENTION, EMBEDDING, RECOMPUTED, Half, Site, architecture_of, block_prefix, of_block
from ptqflow.modeling.attention_name import ATTENTION_NAME
from ptqflow.modeling.fake_quant import FakeQuantLinear, register_attention
from ptqflow.modeling.weights import Weights

_HELD_BYTES = 1 << 30  # of one linear's inputs; accelerators compute them again sooner than they move them
Positions = tuple[Tensor, Tensor]  # cosines and sines of the rotary embedding, [1, tokens, head_dim]


class Buffer:
    """Memory (on the CPU) for one large tensor at a time: the same for all that follow each other, as large as the largest was.

    Taken anew each time it would be cleared page by page, or scatter the heap.
    """

    def __init__(self) -> None:
        """Take nothing yet."""
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor with anything in it, which is valid until the next one is taken."""
        wanted = math.prod(shape) * dtype.itemsize
        if len(self._bytes) < wanted:
            self._bytes = torch.empty(0, dtype=torch.uint8)  # not both at once
            self._bytes = torch.empty(wanted, dtype=torch.uint8)
        return self._bytes[:wanted].view(dtype).view(*shape)


class Blocks:
    """The decoder blocks of a model folder, loaded on demand onto `device` in `dtype`."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Read `config.json` and the index of the weights. Raises ConfigError for an unsupported architecture."""
        config = json.loads((folder / "config.json").read_text())
        self.weights = Weights(folder)
        self.device, self.dtype = device, dtype
        self.buffer = Buffer()  # for what `walk_sites` holds back
        self.architecture = architecture_of(config)
        with self._understood():
            self.config: Any = self.architecture.class_of("Config").from_dict(config)
            register_attention()
            self.config._attn_implementation = ATTENTION_NAME  # sdpa, plus whatever a block does to its cache
            self._rotary = self.architecture.class_of("RotaryEmbedding")(self.config).to(device)

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """What transformers says of a configuration that it does not take, as a ConfigError."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, StrictDataclassError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{self.weights.folder}/config.json is not what transformers takes ({reason}); correct it"
            ) from None

    def embed(self, tokens: Tensor) -> Tensor:
        """Hidden states [sequences, tokens, hidden] (on the CPU) entering the first block, from token ids [sequences, tokens]."""
        table = self.weights[EMBEDDING]
        most = dimensions.positions(self.config.to_dict())
        if most is not None and tokens.shape[1] > most:
            raise ConfigError(
                f"calibration sequences of {tokens.shape[1]} tokens exceed the model's {most} positions "
                "(max_position_embeddings); use a shorter sequence_length"
            )
        if tokens.numel() and int(tokens.max()) >= len(table):
            raise ConfigError(
                f"token {int(tokens.max())} is beyond the {len(table)} rows of {EMBEDDING}; use the model's own tokenizer"
            )
        # In the dtype of the states, as transformers scales.
        scale = torch.tensor(table.shape[1] ** 0.5, dtype=self.dtype) if self.architecture.scaled_embedding else None
        hidden = torch.empty(*tokens.shape, table.shape[1], dtype=self.dtype)
        for states, ids in zip(hidden, tokens, strict=True):  # one by one: no second copy of all in the dtype of the table
            states.copy_(nn.functional.embedding(ids, table))
            if scale is not None:
                states.mul_(scale)
            self._require_finite(EMBEDDING, states)
        return hidden

    def tensors(self, layer: int) -> dict[str, Tensor]:
        """The tensors of block `layer` by their names in the checkpoint, in their stored dtype, on the CPU.

        Raises ArtifactError naming one that is not finite.
        """
        names = self.weights.names_under(block_prefix(layer))
        tensors = self.weights.load(name for name in names if not name.endswith(RECOMPUTED))
        for name, tensor in tensors.items():
            self._require_finite(name, tensor)
        return tensors

    def _require_finite(self, name: str, values: Tensor) -> None:
        extremes = values.aminmax()  # of NaN, NaN; isfinite().all() makes copies and takes 20 times as long
        if not all(math.isfinite(extreme) for extreme in extremes):
            raise ArtifactError(f"{self.weights.folder}: {name} is not finite; fetch the model again or use another one")

    def build(self, layer: int, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> nn.Module:
        """Decoder block `layer` with `tensors`, in evaluation mode; errors as `empty`. `dtype` of its parameters: `self.dtype`
        unless given.
        """
        block = self.empty(layer, tensors)
        self.fill(block, layer, tensors, dtype)
        return block.eval()

    def empty(self, layer: int, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Decoder block `layer` on the device `meta`.

        Raises ArtifactError unless `tensors` are just those, of the shapes, that the configuration asks for.
        """
        with torch.device("meta"), self._understood():
            block: nn.Module = self.architecture.class_of("DecoderLayer")(self.config, layer)
        wanted = {f"{block_prefix(layer)}{name}": list(tensor.shape) for name, tensor in block.state_dict().items()}
        found = {name: list(tensor.shape) for name, tensor in tensors.items()}
        if wrong := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
            raise ArtifactError(
                f"{self.weights.folder}: config.json asks for {wrong[0]} {wanted.get(wrong[0], 'not to be there')}, the weights "
                f"hold {found.get(wrong[0], 'none')}; fetch config and weights of one model"
            )
        return block

    def fill(self, block: nn.Module, layer: int, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
        """Put `tensors`, by their names in the checkpoint, in place of parameters of decoder block `layer`."""
        state = {n.removeprefix(block_prefix(layer)): t.to(self.device, dtype or self.dtype) for n, t in tensors.items()}
        block.load_state_dict(state, strict=False, assign=True)
        block.requires_grad_(False)

    def positions(self, tokens: int, starts: Sequence[int] = (0,)) -> Positions:
        """Rotary cosines and sines [starts, tokens, head_dim] of positions start ... start + tokens - 1."""
        asked = torch.tensor(starts, device=self.device).unsqueeze(1) + torch.arange(tokens, device=self.device)
        with torch.no_grad():
            cosines, sines = self._rotary(torch.empty(0, device=self.device, dtype=self.dtype), asked)
        return cosines, sines


@torch.no_grad()
def forward(block: nn.Module, hidden: Tensor, positions: Positions) -> Tensor:
    """Hidden states [batch, tokens, hidden] through one block with causal attention (no padding)."""
    output = block(hidden, attention_mask=None, position_embeddings=positions, use_cache=False)
    assert isinstance(output, Tensor)
    return output


class SeenEnough(Exception):
    """What a watcher raises to end a forward pass whose output nobody needs."""


@torch.no_grad()
def walk_sites(
    block: nn.Module,
    hidden: Tensor,
    positions: Positions,
    precision: Callable[[], AbstractContextManager[None]] = nullcontext,
    finished: int | None = None,
    buffer: Buffer | None = None,
) -> Iterator[tuple[Site, Iterable[Tensor]]]:
    """Run `hidden` [sequences, tokens, hidden] through a block one distinct linear input at a time, all sequences at each.

    Yields every site with its inputs x [batch, tokens, channels], which must be taken to the end and are valid until the next
    site. The linears that read a site run after that, so they can be replaced according to x, and what follows is made by the new
    ones. `hidden` becomes the block's output, in place (only of the first `finished` sequences, if given). Forward passes run
    under `precision`. It is one pass in all where the inputs of linears can be held back (`_HELD_BYTES` each; those of o_proj
    and down_proj in `buffer`); else it is two.
    """
    buffer = buffer or Buffer()
    found = of_block(block)
    for half, first, second in zip(found.halves, found.sites[::2], found.sites[1::2], strict=True):
        attention = {"position_embeddings": positions, "attention_mask": None} if half.module == ATTENTION else {}
        run = partial(block.get_submodule(half.module), **attention)
        wanted = len(hidden) if finished is None or second is not found.sites[-1] else finished
        yield from _walk_half(block, half, run, (first, second), hidden, precision, wanted, buffer)


def _walk_half(
    block: nn.Module,
    half: Half,
    module: Callable[[Tensor], Any],
    sites: tuple[Site, Site],
    hidden: Tensor,
    precision: Callable[[], AbstractContextManager[None]],
    finished: int,
    buffer: Buffer,
) -> Iterator[tuple[Site, Iterable[Tensor]]]:
    """hidden += after(last linear of module(norm(hidden))), as `walk_sites`."""
    device = next(block.parameters()).device
    parts = batches(*hidden.shape[:2])
    norm, last = block.get_submodule(half.norm), block.get_submodule(f"{half.module}.{sites[1].linears[0]}")
    after = block.get_submodule(half.after) if half.after else nn.Identity()
    with precision():
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else hidden.dtype

    def normed(part: slice) -> Tensor:
        with precision():
            x: Tensor = norm(hidden[part].to(device))
        return x

    def entered(part: slice) -> Tensor:
        with precision():
            x = _input_of(last, lambda: module(first_inputs(part)))
        if part is parts[-1]:
            first_inputs.forget()
        return x

    first_inputs, last_inputs = _Held(normed, len(hidden), dtype, Buffer()), _Held(entered, len(hidden), dtype, buffer)
    yield sites[0], map(first_inputs, parts)
    yield sites[1], map(last_inputs, parts)
    for part in parts:
        if part.start < finished:
            with precision():
                output = after(last(last_inputs(part)))
            hidden[part] += output.to(hidden.device)


class _Held:
    """What `make` makes of parts of all sequences, as linears see it (in `dtype`), held back in `buffer` for the next time.

    Where that would be too much it is made again.
    """

    def __init__(self, make: Callable[[slice], Tensor], sequences: int, dtype: torch.dtype, buffer: Buffer) -> None:
        self._make, self._sequences, self._dtype, self._buffer = make, sequences, dtype, buffer
        self._held: Tensor | None = None
        self._known = 0  # sequences

    def __call__(self, part: slice) -> Tensor:
        """make(part) [sequences, tokens, channels]. The first time parts are to come in order."""
        if self._held is not None and part.stop <= self._known:
            return self._held[part]
        x = self._make(part)
        if part.start == 0 and x.device.type == "cpu" and x[0].numel() * self._sequences * self._dtype.itemsize <= _HELD_BYTES:
            self._held = self._buffer.take((self._sequences, *x.shape[1:]), self._dtype)
        if self._held is None:
            return x.to(self._dtype)
        self._held[part] = x
        self._known = part.stop
        return self._held[part]

    def forget(self) -> None:
        """Hold nothing any more."""
        self._held, self._buffer = None, Buffer()


def _input_of(linear: nn.Module, run: Callable[[], Any]) -> Tensor:
    """What `linear` is given when `run` is called, which ends there."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        raise SeenEnough(inputs[0])

    handle = linear.register_forward_pre_hook(hook)
    try:
        run()
    except SeenEnough as seen:
        x: Tensor = seen.args[0]
        return x
    finally:
        handle.remove()
    raise AssertionError("the linear did not run")


@contextmanager
def watch_sites(block: nn.Module, watch: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `watch(site, x [batch, tokens, channels])` for each distinct linear input of each forward pass inside the context."""
    found, handles = of_block(block), []
    for site in found.sites:

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], name: str = site.name) -> None:
            watch(name, inputs[0])

        handles.append(block.get_submodule(found.module_name(site.linears[0])).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def sample_linears(block: nn.Module, tokens: int) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """By linear: input [tokens, in] and output but for its bias [tokens, out] in the first forward pass inside the context.

    float32 copies of the first `tokens` tokens. The input is what the linear is given: transforms have acted on it, its own
    quantizer has not. The output is the linear's: what quantizes keys before RoPE has not acted on it.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    architecture, handles = of_block(block), []
    for linear in architecture.linears:

        def hook(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor, name: str = linear) -> None:
            if name not in found:
                x, y = (t.flatten(0, -2)[:tokens] for t in (inputs[0], output))
                if module.bias is not None:  # taking it off leaves the rounding errors of y, as large as the bias
                    y = nn.functional.linear(module.quantized(x) if isinstance(module, FakeQuantLinear) else x, module.weight)
                found[name] = x.float().clone(), y.float().clone()

        handles.append(block.get_submodule(architecture.module_name(linear)).register_forward_hook(hook, prepend=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def batches(sequences: int, tokens: int, tokens_at_once: int = 2048) -> list[slice]:
    """Slices of sequences with about `tokens_at_once` tokens each, at least one sequence."""
    size = max(1, tokens_at_once // tokens)
    return [slice(start, min(start + size, sequences)) for start in range(0, sequences, size)]
