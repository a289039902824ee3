"""Gradient descent that cannot collapse: steps are checked, failures roll back to the best state, and the end is judged."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ptqflow.progress import progress

_DIVERGED = 2.0  # times the best held-out loss
_SMALLEST_FACTOR = 2.0**-6  # of the learning rates, after which the best state stands
_MIN_RATE = 5e-6  # at the end of the cosine, for every group
_TINY = 1e-30
_CLEAR = 2.0  # standard errors


@dataclass(frozen=True)
class Event:
    """A measurement of one step: `measure` loss or held_out_loss, `value`, and what happened then, if anything."""

    step: int
    measure: str
    value: float
    event: str | None = None


def clearly_less(losses: Tensor, others: Tensor) -> bool:
    """Whether the first of two losses [sequences] is the lower by two standard errors of their mean difference.

    Of a single sequence any difference counts; a loss that is not finite is more than any that is.
    """
    difference = others.double() - losses.double()
    if not bool(difference.isfinite().all()):
        return bool(losses.isfinite().all())
    error = difference.std().item() / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return difference.mean().item() > _CLEAR * error


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate (at the start of the cosine)."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float


@dataclass
class Descent:
    """AdamW on log(loss), with cosine annealing per step and clipped gradient norms.

    `loss(indices)` is the differentiable loss of some samples, `held_out()` the losses [sequences] whose mean judges. A step
    whose loss or gradient is not finite, or an epoch that ends at a held-out loss that is not finite or twice the best, puts the
    best state back and halves the rates. The last state stands, unless the best is clearly better or the start was better at
    all: the least of many losses on few sequences is the least by chance. Not `guarded`, the last state stands whatever it is,
    and steps that are not finite are left out. `start`: the held-out losses before the first step. `precision`: under which a
    step's loss and gradient are computed.
    """

    groups: Sequence[Group]
    loss: Callable[[Sequence[int]], Tensor]
    held_out: Callable[[], Tensor]
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    guarded: bool = True
    precision: Callable[[], AbstractContextManager[None]] = nullcontext
    events: list[Event] = field(default_factory=list)

    def run(self, samples: int, epochs: int, batch_size: int, generator: torch.Generator, name: str = "descent") -> Tensor:
        """Train on samples 0 ... samples - 1 in seeded order; `name`: in progress. Returns the held-out losses of its end."""
        steps = epochs * math.ceil(samples / batch_size)
        self._factor, step = 1.0, 0
        self.start = last = self.held_out()
        self._keep(self.start)
        self._restart()
        self.events.append(Event(0, "held_out_loss", self._best_loss, "start"))
        with progress(name, steps, "steps") as bar:
            for _ in range(epochs):
                for indices in torch.randperm(samples, generator=generator).split(batch_size):
                    self._step(step, steps, indices.tolist())
                    step += 1
                    bar.update()
                last = self._judge(step)
                if self._factor < _SMALLEST_FACTOR:
                    break
        if self.guarded and (clearly_less(self._best, last) or not last.mean() <= self.start.mean()):
            self._restore()
            return self._best
        return last

    def _step(self, step: int, steps: int, indices: Sequence[int]) -> None:
        for options, group in zip(self._optimizer.param_groups, self.groups, strict=True):
            annealed = _MIN_RATE + (group.learning_rate - _MIN_RATE) * (1 + math.cos(math.pi * step / steps)) / 2
            options["lr"] = annealed * self._factor
        self._optimizer.zero_grad()
        with torch.enable_grad(), self.precision():
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

    def _judge(self, step: int) -> Tensor:
        """The held-out losses of the state that stands after it."""
        losses, event = self.held_out(), None
        value = losses.mean().item()
        if value < self._best_loss:
            self._keep(losses)
            event = "best"
        elif self.guarded and not value <= _DIVERGED * self._best_loss:
            self._roll_back()
            losses, event = self._best, "rollback"
        self.events.append(Event(step, "held_out_loss", value, event))
        return losses

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.groups for p in group.parameters]

    @property
    def _best_loss(self) -> float:
        loss = self._best.mean().item()
        return loss if math.isfinite(loss) else math.inf

    def _keep(self, losses: Tensor) -> None:
        self._best, self._state = losses, [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def _restore(self) -> None:
        for parameter, value in zip(self._parameters, self._state, strict=True):
            parameter.copy_(value)

    def _roll_back(self) -> None:
        self._restore()
        self._factor /= 2
        self._restart()

    def _restart(self) -> None:
        groups = [{"params": list(g.parameters), "lr": g.learning_rate} for g in self.groups]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
