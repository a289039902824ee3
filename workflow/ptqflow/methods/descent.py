"""Gradient descent that cannot collapse: steps are checked, the best state by held-out loss is kept, failures roll back to it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_DIVERGED = 2.0  # times the best held-out loss
_SMALLEST_FACTOR = 2.0**-6  # of the learning rates, after which the best state stands
_MIN_RATE = 5e-6  # at the end of the cosine, for every group
_TINY = 1e-30


@dataclass(frozen=True)
class Event:
    """A measurement of one step: `measure` loss or held_out_loss, `value`, and what happened then, if anything."""

    step: int
    measure: str
    value: float
    event: str | None = None


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate (at the start of the cosine)."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float


@dataclass
class Descent:
    """AdamW on log(loss), with cosine annealing per step and clipped gradient norms.

    `loss(indices)` is the differentiable loss of some samples, `held_out()` the loss that chooses. A step whose loss or gradient
    is not finite, or an epoch that ends at a held-out loss that is not finite or twice the best, puts the best state back and
    halves the rates. Not `guarded`, the last state stands, and steps that are not finite are left out.
    """

    groups: Sequence[Group]
    loss: Callable[[Sequence[int]], Tensor]
    held_out: Callable[[], float]
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    guarded: bool = True
    events: list[Event] = field(default_factory=list)

    def run(self, samples: int, epochs: int, batch_size: int, generator: torch.Generator) -> float:
        """Train on samples 0 ... samples - 1 in seeded order; the parameters end at the best state. Returns its held-out loss."""
        steps = epochs * math.ceil(samples / batch_size)
        self._factor, self._best_loss, step = 1.0, math.inf, 0
        self._keep()
        self._restart()
        self._judge(0, first=True)
        for _ in range(epochs):
            for indices in torch.randperm(samples, generator=generator).split(batch_size):
                self._step(step, steps, indices.tolist())
                step += 1
            self._judge(step)
            if self._factor < _SMALLEST_FACTOR:
                break
        if self.guarded:
            self._restore()
        return self._best_loss

    def _step(self, step: int, steps: int, indices: Sequence[int]) -> None:
        for options, group in zip(self._optimizer.param_groups, self.groups, strict=True):
            annealed = _MIN_RATE + (group.learning_rate - _MIN_RATE) * (1 + math.cos(math.pi * step / steps)) / 2
            options["lr"] = annealed * self._factor
        self._optimizer.zero_grad()
        with torch.enable_grad():
            loss = self.loss(indices)
            loss.clamp(min=_TINY).log().backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self.max_gradient_norm)
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            self.events.append(Event(step, "loss", value, "rollback" if self.guarded else "skipped"))
            if self.guarded:
                self._roll_back()
            return
        self._optimizer.step()
        self.events.append(Event(step, "loss", value))

    def _judge(self, step: int, first: bool = False) -> None:
        value = self.held_out()
        event = "start" if first else None
        if value < self._best_loss:
            self._best_loss = value
            self._keep()
            event = event or "best"
        elif self.guarded and not first and not value <= _DIVERGED * self._best_loss:
            self._roll_back()
            event = "rollback"
        self.events.append(Event(step, "held_out_loss", value, event))

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.groups for p in group.parameters]

    def _keep(self) -> None:
        self._best = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def _restore(self) -> None:
        for parameter, value in zip(self._parameters, self._best, strict=True):
            parameter.copy_(value)

    def _roll_back(self) -> None:
        self._restore()
        self._factor /= 2
        self._restart()

    def _restart(self) -> None:
        groups = [{"params": list(g.parameters), "lr": g.learning_rate} for g in self.groups]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
