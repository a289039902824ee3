import math
from itertools import chain, pairwise

import pytest
import torch
from ptqflow.methods.descent import Descent, Group, clearly_less
from torch import nn

TARGET = torch.tensor([3.0, -2.0])


def descent(parameter, loss, rate=0.1, **options):
    return Descent([Group([parameter], rate)], loss, lambda: (parameter.detach() - TARGET).square().mean()[None], **options)


def run(task, samples=8, epochs=20):
    return task.run(samples, epochs, 2, torch.Generator().manual_seed(0))


def test_descends_to_the_minimum_and_ends_at_the_best_state():
    parameter = nn.Parameter(torch.zeros(2))
    task = descent(parameter, lambda indices: (parameter - TARGET).square().mean())
    best = run(task).item()
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
    best = run(task).item()
    assert next(e.step for e in task.events if e.event == "rollback") == 30
    assert torch.isfinite(parameter).all()
    assert best < 0.2 * task.events[0].value


def test_a_finite_loss_with_a_gradient_that_is_not_rolls_back_too():
    parameter = nn.Parameter(torch.zeros(2))
    calls = iter(range(1000))

    def loss(indices):
        value = (parameter - TARGET).square().mean()
        return value + (0 * parameter).sqrt().sum() if next(calls) == 30 else value  # adds zero, with gradient 0 / 0

    task = descent(parameter, loss)
    run(task)
    first = next(e for e in task.events if e.event == "rollback")
    assert (first.step, math.isfinite(first.value)) == (30, True)
    assert torch.isfinite(parameter).all()


def test_a_rollback_puts_the_best_state_back_halves_the_rate_and_forgets_the_momentum():
    parameter, seen = nn.Parameter(torch.zeros(2)), []

    def loss(indices):
        seen.append(parameter.detach().clone())
        return (parameter - TARGET).square().mean() * (math.nan if len(seen) == 31 else 1.0)

    task = descent(parameter, loss)
    run(task)
    kept = max(e.step for e in task.events if e.event in ("start", "best") and e.step <= 30)
    assert 0 < kept < 30
    assert not torch.equal(seen[30], seen[kept])
    assert torch.equal(seen[31], seen[kept])
    rate = 0.1 * (1 + math.cos(math.pi * 31 / 80)) / 2 / 2  # Adam's first step is the rate, whatever the gradient
    torch.testing.assert_close((seen[32] - seen[31]).abs(), torch.full((2,), rate), rtol=1e-3, atol=0)


def test_a_held_out_loss_that_is_not_finite_rolls_back():
    parameter = nn.Parameter(torch.zeros(2))
    task = descent(parameter, lambda indices: (parameter - TARGET).square().mean())
    losses = iter([3.0, 2.0, math.nan, 1.0])
    task.held_out = lambda: torch.tensor([next(losses)])
    assert run(task, epochs=3) == 1.0
    assert [e.event for e in task.events if e.measure == "held_out_loss"] == ["start", "best", "rollback", "best"]


@pytest.mark.parametrize(
    ("held_out", "ends"),
    [
        ([[4.0, 4.0, 4.0], [1.0, 1.0, 1.0], [1.1, 0.8, 1.2]], 1),  # the last: 0.03 more, of 0.12 standard error
        ([[4.0, 4.0, 4.0], [1.0, 1.0, 1.0], [1.1, 1.1, 1.2]], 0),  # 0.13 more, of 0.03
        ([[4.0], [1.0], [1.1]], 0),  # nothing tells how far a single sequence is off
        ([[1.0, 1.0, 1.0], [0.9, 0.9, 0.9], [1.3, 0.8, 1.2]], 0),  # worse than the start
    ],
)
def test_the_last_state_stands_unless_another_is_clearly_better(held_out, ends):
    parameter = nn.Parameter(torch.zeros(1))
    states, losses = [], iter(map(torch.tensor, held_out))
    task = descent(parameter, lambda indices: (parameter - 1).square().sum())

    def judge():
        states.append(parameter.detach().clone())
        return next(losses)

    task.held_out = judge
    found = run(task, epochs=2)
    assert torch.equal(parameter.detach(), states[1:][ends])
    assert found.tolist() == pytest.approx(held_out[1:][ends])


def test_less_is_clear_where_it_is_two_standard_errors_and_never_of_what_is_not_finite():
    base, step = torch.zeros(100), torch.ones(100) * 0.1
    noise = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert clearly_less(base, base + step)
    assert clearly_less(base + noise, base + noise + step)  # paired: what sequences have in common is no noise
    assert not clearly_less(base, base)
    assert not clearly_less(base, noise - noise.mean() + step)
    assert clearly_less(base, base + math.inf)
    assert not clearly_less(base + math.nan, base)


def test_every_group_is_annealed_from_its_own_rate_to_the_same_small_one():
    slow, fast, seen = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1)), []

    def loss(indices):
        seen.append((slow.item(), fast.item()))
        return (slow + fast + 1000).sum()

    groups = [Group([slow], 0.01), Group([fast], 0.1)]
    Descent(groups, loss, lambda: torch.tensor([-float(len(seen))])).run(100, 1, 1, torch.Generator())
    steps = [[abs(b - a) for a, b in pairwise(path)] for path in zip(*seen, strict=True)]
    for rate, found in zip((0.01, 0.1), steps, strict=True):
        assert found[0] == pytest.approx(rate, rel=1e-3)
        assert found[50] == pytest.approx(rate / 2, rel=0.02)
        assert found[-1] < 2e-3 * rate


def test_parameters_decay_as_asked():
    for options, expected in (({"weight_decay": 0.5}, 0.95), ({}, 1.0)):
        parameter = nn.Parameter(torch.ones(1))
        task = descent(parameter, lambda indices, p=parameter: (p * 0 + 1).sum(), **options)
        task.held_out = lambda p=parameter: p.detach().clone()  # a step is kept where it made the parameter smaller
        task.run(1, 1, 1, torch.Generator())
        assert parameter.item() == pytest.approx(expected)


@pytest.mark.parametrize(("limit", "expected"), [(1e9, 10.0), (0.25, 0.25)])
def test_gradients_are_those_of_the_logarithm_and_clipped_to_a_norm(limit, expected):
    parameter = nn.Parameter(torch.full((1,), 0.5))
    task = descent(parameter, lambda indices: (10 * parameter).exp().sum(), max_gradient_norm=limit)
    task.run(1, 1, 1, torch.Generator())
    assert parameter.grad.item() == pytest.approx(expected)


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
