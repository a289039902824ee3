"""Quantize one decoder block, given the states that enter it: look at its inputs, transform, round, measure, pass states on.

A method sees the calibration set in one of two ways. A rounding that needs Gram matrices, with error propagation, goes site by
site (`_by_site`): linears are rounded by inputs that the rounded ones before them made, and the same pass makes the states that
leave. Everything else learns from the inputs of the float block, all sites at once (`_at_once`).
"""

import json
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from ptqflow.devices.device import Device
from ptqflow.errors import ArtifactError
from ptqflow.method import FROM_STATES
from ptqflow.methods.block import BlockInputs, BlockRounder, sampled_error
from ptqflow.methods.learned import Task, learner
from ptqflow.methods.rounding import HeldOut
from ptqflow.methods.running import Running
from ptqflow.methods.static import ranges_over_positions, static_input_scales
from ptqflow.modeling.anatomy import block_prefix, smoothing_key
from ptqflow.modeling.blocks import Blocks, SeenEnough, batches, sample_linears, walk_sites, watch_sites
from ptqflow.modeling.cache import CacheRanges, attach, static_qparams
from ptqflow.modeling.dimensions import head_dim, queries_per_key
from ptqflow.modeling.qparams import deployed
from ptqflow.numerics.gram import mirror
from ptqflow.recipes import Recipe
from ptqflow.transforms import diagonal

_SAMPLED_TOKENS = 256  # at most, on which each linear's error is measured
MEASURED_TOKENS = 1024  # on which a block's error is measured: sequences that hold as many (or all there are)
Rows = list[dict[str, Any]]
Samples = dict[str, tuple[Tensor, Tensor]]  # by linear: inputs [tokens, in] and outputs [tokens, out]


def quantize_layer(
    blocks: Blocks,
    layer: int,
    hidden: Tensor,
    absmax: Mapping[str, Tensor],
    recipe: Recipe,
    device: Device,
    last: bool = False,
    exact: Tensor | None = None,
    measure: bool = True,
) -> tuple[dict[str, Tensor], Rows, Rows]:
    """Quantize one block given the states that enter it; `hidden` becomes what enters the next one, in place (unless `last`).

    With `error_propagation` that is the quantized block's output, else the float block's. `exact`: those of the float model, for
    recipes whose rounding is `asymmetric`; they go on likewise. `absmax`: max|x| [channels] of the float model by site, for
    recipes that read statistics. Returns qparams by name, rows of diagnostics, and rows of losses (of learned transforms). The
    last row of diagnostics is the block's: its error on a sample of the states that entered it, quantized activations and cache
    included. Unless `measure`, no errors of outputs are measured; recipes that learn nothing from states then need none.
    """
    start = time.perf_counter()
    device.reset_peak()
    if not (measure or recipe.learns_from_states()):
        return _without_states(blocks, layer, absmax, recipe, device, start)
    chosen: dict[str, str] = {}
    if candidates := recipe.clip.candidates():
        tried = _errors_of_clips(blocks, layer, hidden, absmax, recipe, device, exact)
        chosen = {"clip": min(tried, key=tried.__getitem__), "clip_errors": json.dumps(tried)}
        recipe = recipe.model_copy(update={"clip": candidates[chosen["clip"]]})
    tensors, learn, propagate = blocks.tensors(layer), learner(recipe), recipe.error_propagation
    # A learned transform is compared with its targets to the last digits; others see the model as it will run.
    choosing = len(hidden) - recipe.clip.held_out_of(len(hidden))
    run = Running(blocks, layer, recipe, device, tensors, [] if learn else list(tensors.values()), hidden.shape[1], choosing)
    entering = hidden[: math.ceil(MEASURED_TOKENS / run.tokens) if measure else 0].clone()  # the first sequences
    # A learned transform needs all targets; others where the error is measured, unless they are what the next block sees.
    outputs = torch.empty_like(hidden) if learn else torch.empty_like(entering) if propagate or last else hidden
    inputs, ranges = _look(run, hidden, outputs, absmax)
    inputs = replace(inputs, measured=measure)
    fixed: dict[str, Tensor] = {}
    losses: Rows = []
    fallback = warning = None
    if learn:
        with run.precision():
            learned = learn(Task(blocks, layer, hidden, outputs, absmax, device), recipe)
        inputs = replace(inputs, grams=learned.transform_grams(inputs.grams), weight_clips=learned.weight_clips)
        rounder = BlockRounder(run.architecture, layer, learned.tensors, inputs, recipe, device)
        fixed, losses = learned.qparams, learned.rows
        fallback, warning = learned.fallback, learned.warning
    else:
        rounder = BlockRounder(run.architecture, layer, tensors, inputs, recipe, device)
    fixed = fixed | _static(run, absmax, rounder.qparams, ranges)
    everything = propagate and not last
    if recipe.rounds_by_site():
        output, sampled = _by_site(run, rounder, fixed, hidden, entering, everything, exact)
    else:
        output, sampled = _at_once(run, rounder, fixed, hidden, entering, everything)
    whole: dict[str, float] = {}
    if measure:
        for row in rounder.rows:
            row["sampled_error"] = sampled_error(rounder.weight(row["module"]), *sampled[row["module"]])
        whole = _error(layer, entering, output, outputs[: len(entering)])
    if learn and not (propagate or last):
        _pass_on(run, hidden, outputs)
    cost = {"seconds": time.perf_counter() - start, "peak_bytes": device.peak_bytes()}
    noted = {"fallback": fallback, "warning": warning, **chosen}
    rows: Rows = [*rounder.rows, {"layer": layer, "module": "block", **whole, **cost, **noted}]
    return fixed | rounder.qparams, rows, losses


def _without_states(
    blocks: Blocks, layer: int, absmax: Mapping[str, Tensor], recipe: Recipe, device: Device, start: float
) -> tuple[dict[str, Tensor], Rows, Rows]:
    """As `quantize_layer`, which began at `start`, by a recipe that learns nothing from states."""
    tensors, config = blocks.tensors(layer), blocks.config.to_dict()
    blocks.empty(layer, tensors)  # which they must fit
    run = Running(blocks, layer, recipe, device, tensors, list(tensors.values()), tokens=0, choosing=0)
    inputs = BlockInputs({}, 0, {}, absmax, head_dim(config), queries_per_key(config), measured=False)
    rounder = BlockRounder(run.architecture, layer, tensors, inputs, recipe, device)
    fixed = _static(run, absmax, rounder.qparams, None)
    rounder.round_all()
    cost = {"seconds": time.perf_counter() - start, "peak_bytes": device.peak_bytes()}
    return fixed | rounder.qparams, [*rounder.rows, {"layer": layer, "module": "block", **cost}], []


def _errors_of_clips(
    blocks: Blocks,
    layer: int,
    hidden: Tensor,
    absmax: Mapping[str, Tensor],
    recipe: Recipe,
    device: Device,
    exact: Tensor | None,
) -> dict[str, float]:
    """By candidate: |block'(x) - block(x)|² / |block(x) - x|² on sequences that choose, block' made from the others.

    Where the float model's states are at hand (`exact`), block and the x it adds to are theirs: what the recipe aims at.
    """
    first = len(hidden) - recipe.clip.held_out_of(len(hidden))
    tensors, states = blocks.tensors(layer), hidden[first:]
    run = Running(blocks, layer, recipe, device, tensors, list(tensors.values()), hidden.shape[1], len(hidden))
    block, targets = blocks.build(layer, tensors, run.dtype), torch.empty_like(states)
    aimed = states if exact is None else exact[first:]
    for part in batches(*states.shape[:2]):
        targets[part] = run.forward(block, aimed[part])
    del block
    update = (targets.float() - aimed.float()).square().sum(dtype=torch.float64).item()
    errors = {}
    for name, clip in recipe.clip.candidates().items():
        tried = recipe.model_copy(update={"clip": clip})
        beside = exact[:first].clone() if exact is not None else None
        seen = hidden[:first].clone()
        qparams, _, _ = quantize_layer(blocks, layer, seen, absmax, tried, device, last=True, exact=beside, measure=False)
        error = replace(run, recipe=tried).lost(qparams, states, targets) / update if update else 0.0
        errors[name] = error if math.isfinite(error) else math.inf
    return errors


def _look(run: Running, hidden: Tensor, outputs: Tensor, absmax: Mapping[str, Tensor]) -> tuple[BlockInputs, CacheRanges | None]:
    """Run the float block; `outputs` becomes what it makes of as many of the first sequences.

    Returns what the recipe wants to know of all inputs of the block, and the ranges of a static cache, if there is one.
    """
    recipe, cache = run.recipe, run.recipe.scheme.kv_cache
    means, learns = "mean_abs" in recipe.needs(), recipe.learns_from_states()
    found = run.architecture
    last = found.sites[-1].name
    wanted = {site.name for site in found.sites if any(recipe.weights(run.layer, found.role(name)) for name in site.linears)}
    if recipe.rounds_by_site() and not recipe.transform.needs & FROM_STATES:
        wanted = set()  # they will be seen when the linears before them are rounded
    block = run.blocks.build(run.layer, run.tensors, run.dtype)
    ranges = None
    if cache is not None and cache.positions is not None:
        ranges = ranges_over_positions(run, hidden, cache.positions)
    elif cache is not None and cache.static:
        attach(block, ranges := CacheRanges(cache))
    chooses = run.chooses(hidden) and not recipe.rounds_by_site()
    attended = run.attention_received(block, hidden) if chooses and "qkv" in wanted else None
    grams: dict[str, Tensor] = {}
    held_out: dict[str, HeldOut] = {}
    samples: dict[str, list[Tensor]] = {}
    sums: dict[str, Tensor] = {}

    def watch(site: str, x: Tensor) -> None:
        if site in wanted and not learns:
            samples.setdefault(site, []).append(x.flatten(0, -2).float())
        elif site in wanted:
            grams[site] = run.add_gram(grams.get(site), x)
            received = attended[part] if attended is not None and site == "qkv" else None
            if chooses and (more := run.add_held_out(held_out.get(site), x, part.start, received)) is not None:
                held_out[site] = more
            if means:
                total = x.flatten(0, -2).abs().sum(0, dtype=torch.float32)
                sums[site] = sums[site] + total if site in sums else total
        if site == last and not kept:
            raise SeenEnough

    seen = len(hidden if wanted or ranges is not None else outputs)
    with watch_sites(block, watch):
        for part in batches(seen, run.tokens):
            kept = max(0, len(outputs) - part.start)
            with suppress(SeenEnough):
                outputs[part] = run.forward(block, hidden[part])[:kept]
    tokens = hidden.shape[0] * hidden.shape[1]
    config = run.blocks.config.to_dict()
    inputs = BlockInputs(
        grams={site: mirror(gram) for site, gram in grams.items()},
        held_out={site: of_site.each(mirror) for site, of_site in held_out.items()},
        samples={site: torch.cat(rows) for site, rows in samples.items()},
        tokens=tokens,
        mean_abs={site: total / tokens for site, total in sums.items()},
        absmax=absmax,
        head_dim=head_dim(config),
        queries_per_key=queries_per_key(config),
    )
    return inputs, ranges


def _pass_on(run: Running, hidden: Tensor, targets: Tensor) -> None:
    """Make `hidden` what `collect` makes of it (`targets`, if that is as exact): the next block sees the same in any chunk."""
    as_collected = replace(run, stored=list(run.tensors.values()))
    if as_collected.dtype == run.dtype:
        hidden.copy_(targets)
        return
    block = run.blocks.build(run.layer, run.tensors, as_collected.dtype)
    for part in batches(len(hidden), run.tokens):
        hidden[part] = as_collected.forward(block, hidden[part])


def _static(
    run: Running, absmax: Mapping[str, Tensor], scales: Mapping[str, Tensor], ranges: CacheRanges | None
) -> dict[str, Tensor]:
    """Static grids of linear inputs and of the cache, by name. `scales`: the block's scalings by `smoothing_key`."""
    found = static_input_scales(run, absmax, scales)
    if ranges is not None:
        scale = scales.get(smoothing_key(run.layer, "o"))
        cache = static_qparams(ranges, diagonal.rows(scale) if scale is not None else None)
        found |= {f"{block_prefix(run.layer)}{name}": tensor for name, tensor in cache.items()}
    return found


def _by_site(
    run: Running,
    rounder: BlockRounder,
    fixed: Mapping[str, Tensor],
    hidden: Tensor,
    entering: Tensor,
    everything: bool,
    exact: Tensor | None,
) -> tuple[Tensor, Samples]:
    """Round each site's linears by the inputs that the sites before, quantized, make of `hidden`, which becomes the outputs.

    (Only on the sample `entering`, unless `everything` is asked for.) `exact`, the float model's states, go through the float
    block beside them, for weights that make up for the difference. Returns the outputs of the sample, and inputs and outputs
    of its linears. The published GPTQ runs all samples anew for each of the four sites, and once more for the outputs.
    """
    block = run.quantized_block({**fixed, **rounder.qparams})
    finished = len(hidden if everything else entering)
    with sample_linears(block, _SAMPLED_TOKENS) as sampled:
        walk = walk_sites(block, hidden, run.positions, run.precision, finished, run.blocks.buffer)
        beside = _float_inputs(run, rounder, exact, everything) if exact is not None else repeat(None)
        for (site, inputs), of_float in zip(walk, beside, strict=exact is not None):
            if not rounder.quantized(site):
                for made in filter(None, (inputs, of_float)):
                    deque(made, maxlen=0)  # and left
                continue
            by_attention = site.name == "qkv" and (run.recipe.rounding.weighs_by_attention or run.chooses(hidden))
            attended = run.attention_received(block, hidden) if by_attention else None
            gram, cross, held_out = run.grams(inputs, of_float, attended)
            names = rounder.round(site, gram, cross=cross, held_out=held_out)
            del gram, cross, held_out
            weights = {name: deployed(name, run.tensors[name], rounder.qparams, run.architecture) for name in names}
            run.blocks.fill(block, run.layer, weights, run.dtype)
    return hidden[: len(entering)], sampled


def _float_inputs(run: Running, rounder: BlockRounder, exact: Tensor, everything: bool) -> Iterator[Iterable[Tensor]]:
    """Each site's inputs in the float block over its scaling, as `walk_sites`; `exact` becomes its outputs if `everything`."""
    block = run.blocks.build(run.layer, run.tensors, run.dtype)
    for site, inputs in walk_sites(block, exact, run.positions, run.precision, len(exact) if everything else 0):
        scale = rounder.scales.get(smoothing_key(run.layer, site.name))
        yield inputs if scale is None else (x / diagonal.columns(scale) for x in inputs)


def _at_once(
    run: Running, rounder: BlockRounder, fixed: Mapping[str, Tensor], hidden: Tensor, entering: Tensor, everything: bool
) -> tuple[Tensor, Samples]:
    """Round all linears by what is known of the float block's inputs, then run the quantized block; as `_by_site`."""
    rounder.round_all()
    if not (len(entering) or everything):
        return entering, {}
    block = run.quantized_block({**fixed, **rounder.qparams})
    output = torch.empty_like(entering)
    with sample_linears(block, _SAMPLED_TOKENS) as sampled:
        for part in batches(len(entering), run.tokens):
            output[part] = run.forward(block, entering[part])
    if everything:
        hidden[: len(entering)] = output
        others = hidden[len(entering) :]
        for part in batches(len(others), run.tokens):
            others[part] = run.forward(block, others[part])
    return output, sampled


def _error(layer: int, entering: Tensor, output: Tensor, target: Tensor) -> dict[str, float]:
    """The error of what a block made of the states `entering`, against the float block's `target`.

    Raises ArtifactError where either is not finite.
    """
    lost = (output.float() - target.float()).square().sum(dtype=torch.float64).item()
    total = (target.float() - entering.float()).square().sum(dtype=torch.float64).item()
    if not (math.isfinite(lost) and math.isfinite(total)):
        which = "quantized" if math.isfinite(total) else "float"
        raise ArtifactError(
            f"the states that the {which} block {layer} makes, or their squares, overflow; use another calibration set or model"
        )
    tokens = entering.shape[0] * entering.shape[1]
    return {"output_error": lost / total if total else 0.0, "output_mse": lost / entering.numel(), "tokens": tokens}
