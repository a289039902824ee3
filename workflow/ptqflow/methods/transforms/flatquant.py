"""FlatQuant (Sun et al., 2024), one decoder block: learn transforms and clips that bring its quantized output near the float one.

    minimize |F(x) - F'(x)|² over P, c and clips, where F' transforms, clips and quantizes weights, inputs, keys and values

As the reference: AdamW, cosine annealing per step, float inputs. Departures: scales c are learned as logarithms (they cannot
change sign), a share of the calibration sequences is held out and judges (`methods.descent`): non-finite or diverging steps roll
back, and a block that ends worse than plain rounding stays plainly rounded; one that ends not clearly better than it started is
warned of. All of it is recorded, as are checks that the transforms cancel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ptqflow.errors import ConfigError
from ptqflow.methods import flat_block
from ptqflow.methods.block import ratio
from ptqflow.methods.descent import Descent, Group, clearly_less
from ptqflow.methods.flat_block import Block, Learned, Transforms
from ptqflow.methods.learned import LearnedBlock, Task
from ptqflow.methods.transforms.flatquant_settings import FlatQuantTransform
from ptqflow.modeling import online
from ptqflow.modeling.anatomy import ATTENTION, block_prefix, smoothing_key
from ptqflow.modeling.blocks import Positions, batches
from ptqflow.modeling.fake_quant import quantize_block
from ptqflow.numerics.inverse import Inverse, gradient_error, inverse
from ptqflow.numerics.switches import LEARNING, Arithmetic
from ptqflow.recipes import Recipe

IDENTITY_LIMIT = 1e-6  # relative error of the block's update, quantizers off
_GRADIENT_LIMIT = 1e-2
_NOTHING_LEARNED = "learning is not clearly better than the transforms it started from"
_IDENTITY_SEQUENCES, _IDENTITY_TOKENS = 2, 128  # enough to see an error, cheap in float64


@dataclass(frozen=True)
class FlatBlock(LearnedBlock):
    """What was learned: the block under `transforms`."""

    transforms: Transforms

    def transform_grams(self, grams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gram matrices of the inputs of the folded linears, from those of the float block's."""
        return flat_block.transform_grams(grams, self.transforms)


def learn(task: Task, recipe: Recipe, invert: Inverse = inverse) -> FlatBlock:
    """Learn a block's transforms.

    Raises ConfigError where the device loses the gradient of the inverse: training through it would oscillate; not where the
    recipe asks for just that.
    """
    settings, emulated = recipe.transform_of(task.layer), None
    assert isinstance(settings, FlatQuantTransform)
    arithmetic = Arithmetic(invert)
    if settings.emulate is not None:
        arithmetic, emulated = LEARNING[settings.emulate], f"emulated: {settings.emulate}"
        if settings.parametrization != "direct":
            arithmetic = replace(arithmetic, invert=invert)
    error = gradient_error(arithmetic.invert, task.blocks.device)
    if error > _GRADIENT_LIMIT and emulated is None:
        raise ConfigError(
            f"the gradient of the matrix inverse on {task.blocks.device} is off by {error:.1e} (relative): FlatQuant cannot be "
            "trained here; use another platform or update its torch"
        )
    trainer = _Trainer(task, recipe, arithmetic, settings)
    trainer.record(0, "inverse_gradient_error", error, emulated)
    return trainer.run()


class _Trainer:
    """One block: its float tensors, the quantizing module that deployment runs, and the calibration states."""

    def __init__(self, task: Task, recipe: Recipe, arithmetic: Arithmetic, settings: FlatQuantTransform) -> None:
        blocks, layer = task.blocks, task.layer
        self.layer, self.recipe, self.arithmetic, self.settings = layer, recipe, arithmetic, settings
        self.hidden, self.targets, self.absmax, self.device = task.hidden, task.targets, task.absmax, task.device
        self.architecture = blocks.architecture
        if len(self.hidden) < 2:
            raise ConfigError("flatquant holds calibration sequences out, so it needs at least 2; use more samples")
        tensors = blocks.tensors(layer)
        self.stored: Block = {name.removeprefix(block_prefix(layer)): tensor for name, tensor in tensors.items()}
        self.exact = self._stored_as(blocks.device, torch.float32)
        self.module = blocks.build(layer, tensors).float()
        self.plain, self.transformed = (blocks.empty(layer, tensors).eval() for _ in range(2))  # run on tensors that are given
        quantize_block(self.module, recipe, layer)
        online.declare(self.transformed, recipe, settings.sites, layer, quantize=False)
        self.positions = blocks.positions(self.hidden.shape[1])
        self.samples = len(self.hidden) - settings.held_out_of(len(self.hidden))
        self.rows: list[dict[str, Any]] = []

    def run(self) -> FlatBlock:
        """Learn, round to what the checkpoint holds, and fall back to plain rounding where that is better.

        A block of which nothing is quantized has nothing to learn, and stays as it is.
        """
        settings, head_dim = self.settings, int(self.plain.get_submodule(ATTENTION).head_dim)  # type: ignore[arg-type]
        known = (self.architecture, self.stored, head_dim, self.absmax, self.recipe, self.layer, settings)
        learned, identity = Learned(*known).to(self.device.torch_device), Learned(*known).to(self.device.torch_device)
        identity.set_identity()
        entering = self.hidden[self.samples :].to(torch.float32)
        update = (self.targets[self.samples :].to(torch.float32) - entering).square().mean().item()
        self.record(0, "held_out_update", update, "mean square of what the float block adds")
        rtn = self._held_out(self._state(identity.values())).mean().item()
        self.record(0, "rtn_held_out_loss", rtn)
        quantized = any(self.recipe.quantizes(self.layer, linear) for linear in self.architecture.linears)
        if not (quantized or self.recipe.scheme.kv_cache):
            same, losses, _ = self._deployed(identity, 0)
            self.record(0, "deployed_held_out_loss", losses.mean().item())
            return self._result(same, None, None)
        self.record(0, "identity_error", self._identity_error(learned.values()), "before training")

        clips = [p for name, p in learned.named_parameters() if "clips" in name]
        scales = [*learned.log_scales.parameters()]
        matrices = [*learned.matrices.parameters()]
        descent = Descent(
            [
                Group(matrices, settings.matrix_learning_rate),
                Group(scales, settings.scale_learning_rate or settings.matrix_learning_rate),
                Group(clips, settings.clip_learning_rate),
            ],
            lambda indices: self._errors(self._state(learned.values()), indices).mean(),
            lambda: self._held_out(self._state(learned.values())),
            settings.weight_decay,
            settings.max_gradient_norm,
            settings.guarded,
            partial(self.device.matmul_precision, settings.matmul_precision),
        )
        order = torch.Generator().manual_seed(settings.seed + self.layer)
        with self.arithmetic.products():
            descent.run(self.samples, settings.epochs, settings.batch_size, order, f"block {self.layer}")
        self.rows += [{"layer": self.layer, **asdict(event)} for event in descent.events]
        step = descent.events[-1].step
        self.record(step, "identity_error", self._identity_error(learned.values()), "after training")

        result, losses, error = self._deployed(learned, step)
        fallback, loss, warning = None, losses.mean().item(), None
        if settings.guarded and not (loss <= rtn and error <= IDENTITY_LIMIT):
            fallback = f"no transform: held-out loss {loss:.3g} (round to nearest {rtn:.3g}), identity error {error:.1e}"
            result, losses, _ = self._deployed(identity, step)
            loss = losses.mean().item()
        elif settings.epochs and not clearly_less(losses, descent.start):
            warning = _NOTHING_LEARNED
        self.record(step, "deployed_held_out_loss", loss, "fallback" if fallback else warning and "warning")
        return self._result(result, fallback, warning)

    def _deployed(self, learned: Learned, step: int) -> tuple[Transforms, Tensor, float]:
        """The transforms as the checkpoint holds them, their held-out losses, and their identity error."""
        with torch.no_grad():
            final = flat_block.rounded_to(learned.values(), self.stored, self.arithmetic.wide)
            error = self._identity_error(final)
            self.record(step, "identity_error", error, "folded")
            for name, value in flat_block.condition_numbers(final).items():
                self.record(step, "condition_number", value, name)
            return final, self._held_out(self._state(final.to(self.device.torch_device, torch.float32))), error

    def _stored_as(self, where: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """The float block's tensors; they travel in their own dtype."""
        return {name: tensor.to(where).to(dtype) for name, tensor in self.stored.items()}

    def _state(self, transforms: Transforms) -> dict[str, Tensor]:
        """All tensors of the quantizing module; differentiable in the transforms."""
        folded = flat_block.fold(self.exact, transforms, self.arithmetic.invert)
        quantized = flat_block.quantize_weights(folded, transforms, self.recipe, self.layer)
        return _of(self.module, quantized | flat_block.online_tensors(transforms, self.arithmetic.invert))

    def _errors(self, state: dict[str, Tensor], indices: Sequence[int] | slice) -> Tensor:
        """Squared errors [sequences, tokens, hidden] of the quantized block's output on some sequences."""
        x, target = (t[indices].to(self.device.torch_device, torch.float32) for t in (self.hidden, self.targets))
        return (_forward(self.module, state, x, self.positions) - target).square()

    @torch.no_grad()
    def _held_out(self, state: dict[str, Tensor]) -> Tensor:
        """Mean squared errors of the held-out sequences."""
        count = len(self.hidden) - self.samples
        parts = [slice(p.start + self.samples, p.stop + self.samples) for p in batches(count, self.hidden.shape[1])]
        return torch.cat([self._errors(state, part).mean((1, 2)) for part in parts]).cpu().double()

    @torch.no_grad()
    def _identity_error(self, transforms: Transforms) -> float:
        """Relative error of the block's update with transforms folded and applied, quantizers off, in float64.

        A block that adds nothing to its states (another, put in without changing the model) has none where that stays so.
        """
        where = self.device.float64_device
        exact = self._stored_as(where, torch.float64)
        transforms = transforms.to(where, torch.float64)
        state = flat_block.fold(exact, transforms, self.arithmetic.invert) | flat_block.online_tensors(
            transforms, self.arithmetic.invert
        )
        x = self.hidden[:_IDENTITY_SEQUENCES, :_IDENTITY_TOKENS].to(where, torch.float64)
        cosines, sines = (t[:, :_IDENTITY_TOKENS].to(where, torch.float64) for t in self.positions)
        expected = _forward(self.plain, exact, x, (cosines, sines))
        found = _forward(self.transformed, _of(self.transformed, state), x, (cosines, sines))
        return ratio((found - expected).norm().item(), (expected - x).norm().item())

    def record(self, step: int, measure: str, value: float, event: str | None = None) -> None:
        """A row of the losses table."""
        self.rows.append({"layer": self.layer, "step": step, "measure": measure, "value": value, "event": event})

    def _result(self, final: Transforms, fallback: str | None, warning: str | None) -> FlatBlock:
        where, wide, prefix = self.device.float64_device, self.arithmetic.wide, block_prefix(self.layer)
        folded = flat_block.fold(self._stored_as(where, wide), final.to(where, wide), self.arithmetic.invert)
        tensors = {f"{prefix}{name}": tensor.float().cpu() for name, tensor in folded.items()}
        qparams = {f"{prefix}{name}": t for name, t in flat_block.online_tensors(final, self.arithmetic.invert).items()}
        declared = {f"{prefix}{name}" for name, _ in online.parameters(self.module)}
        named = {name: t for name, t in qparams.items() if name in declared}
        qparams = {name: t.to(torch.float32, copy=True).contiguous() for name, t in named.items()}  # a file shares no memory
        for site in self.architecture.sites:
            if site.name in final.scales:
                qparams[smoothing_key(self.layer, site.name)] = final.scales[site.name].reciprocal().float()
            for linear in site.linears:
                if self.recipe.weights(self.layer, linear) is None:
                    name = f"{prefix}{self.architecture.module_name(linear)}.weight"
                    qparams[name] = tensors[name].contiguous()
        for name in (f"{prefix}{self.architecture.module_name(linear)}.bias" for linear in ("v_proj", "up_proj")):
            if name in tensors:
                qparams[name] = tensors[name].contiguous()
        return FlatBlock(tensors, final.weight_clips, qparams, self.rows, fallback, warning, final)


def _forward(module: nn.Module, state: dict[str, Tensor], x: Tensor, positions: Positions) -> Tensor:
    """Output of a block whose tensors are `state`."""
    arguments = {"attention_mask": None, "position_embeddings": positions, "use_cache": False}
    output = functional_call(module, state, (x,), arguments)
    assert isinstance(output, Tensor)
    return output


def _of(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of `state` that `module` declares; all that it declares must be there."""
    return {name: state[name] for name, _ in module.named_parameters()}
