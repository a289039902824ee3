"""HQQ: zero points that lower |w - w'|^p, by its own solver, never above those of the plain grid."""

import pytest
import torch
from ptqflow.checkpoints import registry
from ptqflow.methods.rounding import Target
from ptqflow.methods.roundings import hqq, rtn
from ptqflow.methods.roundings.hqq_settings import HqqRounding
from ptqflow.methods.roundings.rtn_settings import RtnRounding
from ptqflow.numerics.grid import dequantize_weight
from ptqflow.presets import resolve
from ptqflow.scheme import WeightArgs

ARGS = WeightArgs(num_bits=3, symmetric=False, strategy="group", group_size=32)


@pytest.fixture
def weight() -> torch.Tensor:
    torch.manual_seed(0)
    weight = torch.randn(48, 128)
    weight[::5, 7] *= 8  # outliers
    return weight


def rounded(weight, **settings):
    (found,) = hqq.round_weights([Target(weight, ARGS, None)], None, HqqRounding(name="hqq", **settings))
    return found


def losses(weight, found, p=0.7) -> torch.Tensor:
    lost = weight - dequantize_weight(found.integers, found.scale, found.zero_point)
    return lost.abs().pow(p).unflatten(1, (-1, 32)).sum(-1)


def reference(weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, iterations: int) -> torch.Tensor:
    """Zero points after some iterations of `optimize_weights_proximal` (hqq 0.2), in float64."""
    groups, beta, step = weight.view(-1, 32).double(), 10.0, scale.view(-1, 1).double()
    zero = zero.view(-1, 1).double()
    for _ in range(iterations):
        q = torch.round(groups * (1 / step) + zero).clamp(0, 7)
        r = (q - zero) / (1 / step)
        d = groups - r
        e = torch.sign(d) * torch.nn.functional.relu(d.abs() - (1 / beta) * d.abs().pow(0.7 - 1))
        zero = (q - (groups - e) * (1 / step)).mean(1, keepdim=True)
        beta *= 1.01
    return zero.view(scale.shape)


def test_no_group_loses_more_than_by_plain_rounding(weight):
    (plain,) = rtn.round_weights([Target(weight, ARGS, None)], None, RtnRounding())
    found = rounded(weight)
    assert torch.equal(found.scale, plain.scale)
    assert bool((losses(weight, found) <= losses(weight, plain) * (1 + 1e-5)).all())
    assert losses(weight, found).sum() < 0.97 * losses(weight, plain).sum()


def test_zero_points_are_those_of_the_published_iteration(weight):
    (plain,) = rtn.round_weights([Target(weight, ARGS, None)], None, RtnRounding())
    passed = [reference(weight, plain.scale, plain.zero_point.float(), n) for n in range(21)]
    found = rounded(weight).zero_point.double()
    nearest = torch.stack([(found - z).abs() for z in passed]).amin(0)
    assert (nearest < 1e-4).double().mean() > 0.98  # a weight on the edge between two integers may go another way in float64


def test_integers_are_nearest_for_the_zero_points(weight):
    found = rounded(weight)
    ratio = weight.unflatten(1, (-1, 32)) / found.scale.unsqueeze(-1) + found.zero_point.unsqueeze(-1)
    assert torch.equal(ratio.round().clamp(0, 7).flatten(1).to(torch.uint8), found.integers)
    assert found.zero_point.dtype == torch.float32
    assert bool((found.zero_point != found.zero_point.round()).any())


def test_integer_zero_points_are_on_the_grid(weight):
    (plain,) = rtn.round_weights([Target(weight, ARGS, None)], None, RtnRounding())
    found = rounded(weight, zero_point="integer")
    assert found.zero_point.dtype == torch.uint8
    assert int(found.zero_point.max()) <= 7
    assert bool((losses(weight, found) <= losses(weight, plain) * (1 + 1e-5)).all())


def test_a_group_of_zeros_stays_zeros():
    found = rounded(torch.zeros(2, 128))
    assert not dequantize_weight(found.integers, found.scale, found.zero_point).any()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"symmetric": True}, "symmetric: false"),
        ({"convention": "awq"}, "convention: flatquant"),
        ({"strategy": "tensor", "group_size": None}, "strategy group or channel"),
    ],
)
def test_what_it_conflicts_with_is_refused(weights, message):
    scheme = {"weights": ARGS.model_dump() | weights}
    with pytest.raises(ValueError, match=message):
        resolve({"scheme": scheme, "rounding": {"name": "hqq"}})


@pytest.mark.parametrize("form", ["compressed-tensors", "autoawq", "gptq", "modelslim"])
def test_forms_of_integers_refuse_real_zero_points(form):
    assert "real zero points" in (registry.refusal(form, resolve({"preset": "hqq-w4a16"}), None) or "")


def test_integer_zero_points_can_be_served():
    recipe = resolve({"preset": "hqq-w4a16", "rounding": {"name": "hqq", "zero_point": "integer"}})
    assert registry.refusal("compressed-tensors", recipe, None) is None
