import math
from itertools import chain

import pytest
import torch
from ptqflow.methods.descent import Descent, Group
from torch import nn

TARGET = torch.tensor([3.0, -2.0])


def descent(parameter, loss, rate=0.1, **options):
    return Descent([Group([parameter], rate)], loss, lambda: float((parameter.detach() - TARGET).square().mean()), **options)


def run(task, samples=8, epochs=20):
    return task.run(samples, epochs, 2, torch.Generator().manual_seed(0))


def test_descends_to_the_minimum_and_ends_at_the_best_state():
    parameter = nn.Parameter(torch.zeros(2))
    task = descent(parameter, lambda indices: (parameter - TARGET).square().mean())
    best = run(task)
    held_out = [e.value for e in task.events if e.measure == "held_out_loss"]
    assert best == min(held_out) == pytest.approx(float((parameter.detach() - TARGET).square().mean()))
    assert best < 0.05 * held_out[0]
    assert [e.step for e in task.events if e.measure == "loss"] == list(range(80))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_steps_that_are_not_finite_roll_back_to_the_best_state(poison):
    parameter = nn.Parameter(torch.zeros(2))
    calls = iter(range(1000))

    def loss(indices):
        return (parameter - TARGET).square().mean() * (poison if next(calls) == 30 else 1.0)

    task = descent(parameter, loss)
    best = run(task)
    assert next(e.step for e in task.events if e.event == "rollback") == 30
    assert torch.isfinite(parameter).all()
    assert best < 0.2 * task.events[0].value


def test_a_loss_that_pulls_the_wrong_way_cannot_make_the_result_worse():
    parameter = nn.Parameter(TARGET + 0.1)
    task = descent(parameter, lambda indices: 1 / (parameter - TARGET).square().mean(), rate=1.0)
    assert run(task) == task.events[0].value  # the start
    torch.testing.assert_close(parameter.detach(), TARGET + 0.1)
    assert sum(e.event == "rollback" for e in task.events) == 7  # then it gives up: no rate is small enough


def test_zero_loss_gives_zero_gradient_not_nan():
    parameter = nn.Parameter(TARGET.clone())
    assert run(descent(parameter, lambda indices: (parameter - TARGET).square().mean()), epochs=2) == 0


def test_order_of_samples_is_seeded_and_covers_all():
    seen = []
    parameter = nn.Parameter(torch.zeros(2))

    def loss(indices):
        seen.append(list(indices))
        return (parameter - TARGET).square().mean()

    run(descent(parameter, loss), samples=7, epochs=2)
    assert sorted(chain(*seen[:4])) == sorted(chain(*seen[4:])) == list(range(7))
    assert seen[:4] != seen[4:]
