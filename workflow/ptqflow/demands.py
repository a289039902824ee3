"""Threads, memory and minutes that a job asks for, from its model's dimensions and its own settings. Import-light.

Memory is the peak resident size of the process: what Python and the libraries take, and the largest tensors that a stage holds at
once, in the words of the stages. Minutes are arithmetic over what a core or a device does of it, with room: a limit, no forecast.
A job that was killed asks for more the next time (`attempt`). tests/workflow/test_demands.py has what was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ptqflow.modeling.dimensions import head_dim, linear_shapes, queries_per_key
from ptqflow.recipes import Recipe

MB = 2**20
PYTHON_MB = {"torch": 480, "numpy": 310, "arrow": 350, "scoring": 420}  # a process that has imported so much
ROOM = 1.2  # of the estimate, for what allocators keep
TOKENS_AT_ONCE = 2048  # of a pass through a block (modeling/blocks.py: batches)
SHARD_BYTES = 5e9  # of a file of weights, at most, as models are published
LEARNING_BYTES = 28  # per weight of a learned block: copies in float64, in which it is checked, or in float32 and their gradients
GRADIENT_BYTES = 16  # per channel and token of a step: what its gradients are made of
HELD_BYTES = 2**30  # of a linear's inputs, at most, between two looks at them (modeling/blocks.py)
FLOPS = {"core": 2e10, "device": 5e13}  # per second, of one core and of one device, as transformers and our methods reach them
BYTES_PER_SECOND = {"cpu": 1e10, "device": 5e11}  # weights read per second while decoding
DECODED = 500  # items of a task whose number is not stated
LIKELIHOOD_TOKENS = 512  # of an alternative or a window where it is not stated
PROMPT_TOKENS = 128
MAX_THREADS = 16
PARAMETERS_PER_THREAD = 5e7  # below that, threads of one job only wait for each other


@dataclass(frozen=True)
class Dimensions:
    """Numbers of a model: `block` and `embedding` in parameters, `stored` and `computed` in bytes of each."""

    hidden: int
    layers: int
    vocabulary: int
    block: int
    embedding: int
    widest: int
    activations: int  # channels of a token that a block holds at once
    cache: int  # channels of a token's keys and values, of all blocks
    stored: int
    computed: int

    @classmethod
    def of(cls, config: Mapping[str, Any], on_device: bool) -> "Dimensions":
        """Those of a `config.json`."""
        shapes = linear_shapes(config).values()
        hidden, intermediate, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
        keys = heads // queries_per_key(config) * head_dim(config)
        stored = 4 if str(config.get("torch_dtype") or config.get("dtype")).endswith("float32") else 2
        return cls(
            hidden=hidden,
            layers=config["num_hidden_layers"],
            vocabulary=config["vocab_size"],
            block=sum(rows * columns for rows, columns in shapes),
            embedding=config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings") else 2),
            widest=max(columns for _, columns in shapes),
            activations=6 * hidden + 3 * intermediate + 4 * keys,
            cache=2 * keys * config["num_hidden_layers"],
            stored=stored,
            computed=2 if on_device else 4,
        )

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self.layers * self.block + self.embedding


@dataclass(frozen=True)
class Demand:
    """What a job asks for, at its first attempt."""

    threads: int
    mem_mb: int
    minutes: int

    def at(self, attempt: int) -> "Demand":
        """At an attempt, counted from 1: half as much memory again, and twice the time, after each that failed."""
        return Demand(self.threads, int(self.mem_mb * 1.5 ** (attempt - 1)), self.minutes * 2 ** (attempt - 1))


def small(libraries: str = "arrow") -> Demand:
    """Of a job that holds no model."""
    return Demand(1, int(PYTHON_MB[libraries] * ROOM), 30)


def shared(demand: Demand, ranks: int) -> Demand:
    """Of a job whose model so many ranks share: each is one process more than the job's own."""
    more = (ranks if ranks > 1 else 0) * PYTHON_MB["torch"] * ROOM
    return replace(demand, mem_mb=demand.mem_mb + int(more))


UNKNOWN = Demand(8, 32_000, 240)  # of a model that is not here yet; worked out again before the job starts


def threads_of(parameters: float) -> int:
    """Cores of a job that passes through so many parameters at once."""
    return max(1, min(MAX_THREADS, round(parameters / PARAMETERS_PER_THREAD)))


def _demand(parameters: float, held: float, flops: float, device: bool, seconds: float = 0.0, libraries: str = "torch") -> Demand:
    """From bytes `held` at the peak, floating-point operations, and seconds of anything else."""
    threads = threads_of(parameters)
    seconds += flops / (FLOPS["device"] if device else threads * FLOPS["core"])
    return Demand(threads, int((PYTHON_MB[libraries] + held / MB) * ROOM), 15 + int(3 * seconds / 60))


def rotate(d: Dimensions) -> Demand:
    """A shard of the model is turned by tensor in float64 and held until it is written, its head apart from the embedding."""
    held = min(d.stored * (d.parameters + d.embedding), SHARD_BYTES) + 8 * (d.embedding + 2 * d.block)
    return _demand(d.parameters, held, 4.0 * d.parameters * d.hidden, False)


def collect(d: Dimensions, tokens: int, device: bool) -> Demand:
    """One pass of `tokens` (samples x sequence length) through all blocks, one block at a time; states pass through the host."""
    held = 4 * tokens * d.hidden * 2 + d.block * (d.stored + d.computed) + d.embedding * d.stored
    held += 4 * min(tokens, TOKENS_AT_ONCE) * d.activations
    return _demand(d.block, held, 2.0 * d.layers * d.block * tokens, device)


def quantize(d: Dimensions, layers: int, tokens: int, length: int, recipe: Recipe, device: bool) -> Demand:
    """Float and quantized states of a chunk, one block and its copies, Gram matrices of its linears' inputs, its integers.

    A block that is learned has more copies, and a step keeps activations of its sequences, of `length` tokens, for gradients,
    where it computes.
    """
    held = 4 * tokens * d.hidden * 3 + d.block * (d.stored + 3 * 4) + 8 * 2 * d.widest**2 + d.block * layers
    learned = min(tokens, length * getattr(recipe.transform, "batch_size", 1)) if recipe.learns_by_block() else 0
    held += max(4 * min(tokens, TOKENS_AT_ONCE), 0 if device else GRADIENT_BYTES * learned) * d.activations
    held += (LEARNING_BYTES * d.block) if learned else 0
    if recipe.rounding.asymmetric:  # the float model's states beside the quantized ones, and a matrix of both
        held += 4 * tokens * (d.hidden + min(d.widest, HELD_BYTES // (4 * tokens))) + 8 * d.widest**2
    rounded = recipe.clip.roundings
    if rounded > 1:  # matrices of the sequences that choose, and of the others; states of both
        held += 8 * 2 * d.widest**2 + 8 * tokens * d.hidden
    passes = 4.0 * rounded + 2.0 * recipe.rounding.asymmetric + 3.0 * getattr(recipe.transform, "epochs", 0)
    flops = layers * (2.0 * passes * d.block * tokens + 40.0 * rounded * d.block * d.widest)
    return _demand(d.block, held, flops, device)


def export(d: Dimensions) -> Demand:
    """What is written of the model, tensor by tensor as it is read, and its integers."""
    held = d.parameters * d.stored + d.block * d.layers
    return _demand(1, held, 20.0 * d.parameters, False, libraries="numpy")


def verify(d: Dimensions, device: bool) -> Demand:
    """The checkpoint in an engine, beside its integers and the tensors it is compared with."""
    held = d.parameters * (d.computed + d.stored) + d.block * d.layers
    return _demand(d.block, held, 50.0 * d.parameters * LIKELIHOOD_TOKENS, device)


def generate(d: Dimensions, protocol: Mapping[str, Any], batch_size: int, device: bool) -> Demand:
    """A model in an engine with the logits of a batch, its keys, values and prefill where the engine computes.

    Decoding reads all weights for each token of a batch.
    """
    new = int(protocol.get("max_new_tokens", 0))
    length = new + int(protocol.get("window", PROMPT_TOKENS if new else LIKELIHOOD_TOKENS))
    items = int(protocol.get("limit") or DECODED) * int(protocol.get("completions") or 1)
    if protocol.get("limit") and (new or "window" in protocol):  # of an item of alternatives several stand in a batch
        batch_size = min(batch_size, items)
    held = d.parameters * (d.computed + d.stored) + 12 * batch_size * d.vocabulary
    if not device:
        held += batch_size * (length * d.cache * d.computed + 4 * (length - new) * d.activations)
    seconds = -(-items // batch_size) * new * d.parameters * d.computed / BYTES_PER_SECOND["device" if device else "cpu"]
    return _demand(d.block, held, 2.0 * d.parameters * items * length, device, seconds)


def measure(d: Dimensions, batch_size: int, tokens: int, runs: int, device: bool) -> Demand:
    """A model in an engine with the logits of the largest batch, and its cache where the engine computes, `runs` times."""
    held = d.parameters * (d.computed + d.stored) + 12 * batch_size * d.vocabulary
    held += 0 if device else batch_size * tokens * d.cache * d.computed
    seconds = runs * tokens * d.parameters * d.computed / BYTES_PER_SECOND["device" if device else "cpu"]
    return _demand(d.block, held, 2.0 * d.parameters * batch_size * tokens * runs, device, seconds)
