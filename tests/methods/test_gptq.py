import pytest
import torch
from ptqflow.methods.clips.mse_settings import MseClip
from ptqflow.methods.rounding import Target
from ptqflow.methods.roundings import gptq, rtn
from ptqflow.methods.roundings.gptq_settings import GptqRounding
from ptqflow.methods.roundings.rtn_settings import RtnRounding
from ptqflow.numerics.grid import dequantize_weight, stored_scale
from ptqflow.numerics.linalg import damped_cholesky
from ptqflow.scheme import WeightArgs
from rounding_helpers import round_one

GROUPED = WeightArgs(num_bits=3, symmetric=False, strategy="group", group_size=16)
CHANNEL = WeightArgs(num_bits=4, strategy="channel")


def layer(seed=0, out=24, width=64, rows=400):
    """A weight and strongly correlated inputs."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=random) * torch.linspace(0.1, 3, width)
    return torch.randn(out, width, generator=random), torch.randn(rows, width, generator=random) @ mix


def value(rounded):
    return dequantize_weight(rounded.integers, rounded.scale, rounded.zero_point)


def reference(weight, gram, args, clip, settings):
    """The algorithm of section 2.2, in float64, column by column, with an explicit inverse and no blocks."""
    w, h = weight.double().clone(), gram.double().clone()
    dead = h.diagonal() == 0
    h.diagonal()[dead] = h.diagonal()[~dead].mean()
    w[:, dead] = 0
    scale, zero = gptq.weight_grid(w.float(), args, clip)
    width = w.shape[1] // scale.shape[1]
    low, high = (-(2 ** (args.num_bits - 1)), 2 ** (args.num_bits - 1) - 1) if args.symmetric else (0, 2**args.num_bits - 1)
    order = torch.argsort(h.diagonal(), descending=True, stable=True) if settings.actorder else torch.arange(w.shape[1])
    h = h + settings.dampening_frac * h.diagonal().mean() * torch.eye(len(h))
    u = torch.linalg.cholesky(torch.linalg.inv(h[order][:, order]), upper=True)
    integers = torch.empty_like(w)
    for i, j in enumerate(order):
        s, z = scale[:, j // width].double(), zero[:, j // width].double()
        integers[:, j] = torch.clamp(torch.round(w[:, j] / s) + z, low, high)
        error = (w[:, j] - (integers[:, j] - z) * s) / u[i, i]
        later = order[i + 1 :]
        w[:, later] -= torch.outer(error, u[i, i + 1 :])
    return integers


@pytest.mark.parametrize("args", [GROUPED, CHANNEL, WeightArgs(num_bits=8, strategy="tensor")])
@pytest.mark.parametrize("clip", [None, MseClip(name="mse")])
@pytest.mark.parametrize("actorder", [True, False])
def test_gptq_equals_a_float64_column_by_column_reference(args, clip, actorder):
    weight, x = layer()
    x[:, 5] = 0
    settings = GptqRounding(name="gptq", actorder=actorder, block_size=24)
    rounded = round_one(gptq, weight, x.T @ x, args, clip, settings)
    expected = reference(weight, x.T @ x, args, clip, settings)
    different = rounded.integers.double() != expected
    assert different.float().mean() < 0.01  # float32 against float64 at rounding ties
    assert (rounded.integers.double() - expected).abs().max() <= 1
    assert rounded.fallback is None
    assert rounded.damping == settings.dampening_frac
    assert 1 < rounded.condition_number < 1e4


@pytest.mark.parametrize("width", [1, 20, 33, 47, 148, 200])
@pytest.mark.parametrize("actorder", [True, False])
def test_gptq_equals_the_reference_for_any_number_of_columns(width, actorder):
    weight, x = layer(width=width)
    settings = GptqRounding(name="gptq", actorder=actorder)
    rounded = round_one(gptq, weight, x.T @ x, CHANNEL, None, settings)
    assert (rounded.integers.double() != reference(weight, x.T @ x, CHANNEL, None, settings)).float().mean() < 0.01
    lost = (x @ (weight - value(rounded)).T).double().square().sum().item()
    assert rounded.lost == pytest.approx(lost, rel=1e-3, abs=1e-6)


def test_lazy_blocks_change_nothing():
    weight, x = layer()
    gram = x.T @ x
    sizes = 1, 50, 128
    one, *many = (round_one(gptq, weight, gram, GROUPED, None, GptqRounding(name="gptq", block_size=b)) for b in sizes)
    for other in many:
        assert (one.integers != other.integers).float().mean() < 0.005
        assert one.lost == pytest.approx(other.lost, rel=0.01)


def test_the_loop_rounds_half_to_even_and_ends_at_the_ends_of_the_grid():
    half = torch.arange(-20.5, 21)
    ratios = torch.cat(
        [half, half + torch.rand(42, generator=torch.Generator().manual_seed(0)), torch.tensor([-1e30, -1e7, 1e7, 1e30])]
    )
    scale = torch.full((1, len(ratios)), 0.3)
    columns = (ratios * scale).expand(3, -1).clone()
    expected = (columns / scale).round().clamp(-8, 15)
    grids = gptq.Grids(scale, *(torch.full_like(scale, end) + gptq._WHOLE for end in (-8, 15)))
    ((here, steps, errors),) = gptq._feed_back(columns.clone(), torch.eye(3), grids, torch.zeros(3, dtype=torch.int64), 128)
    assert here == slice(0, 3)
    assert torch.equal(steps, expected)
    torch.testing.assert_close(errors, columns - expected * scale)


def test_weights_that_share_an_input_are_rounded_as_each_alone():
    weight, x = layer()
    x[:, 5] = 0
    gram = x.T @ x
    mse, settings = MseClip(name="mse"), GptqRounding(name="gptq", block_size=24)
    targets = [Target(weight[:10], GROUPED, mse), Target(weight[10:12], CHANNEL, None), Target(weight[12:], GROUPED, mse)]
    together = gptq.round_weights(targets, gram, settings)
    for target, found in zip(targets, together, strict=True):
        alone = round_one(gptq, target.weight, gram, target.args, target.clip, settings)
        assert torch.equal(found.scale, alone.scale)
        assert torch.equal(found.zero_point, alone.zero_point)
        assert found.integers.dtype == alone.integers.dtype
        assert (found.integers != alone.integers).float().mean() < 0.005  # products of other shapes round differently
        assert (found.damping, found.fallback) == (alone.damping, alone.fallback)


def test_gptq_with_a_diagonal_hessian_is_round_to_nearest():
    weight, _ = layer()
    gram = torch.diag(torch.rand(64, generator=torch.Generator().manual_seed(0)) + 0.5)
    for clip in (None, MseClip(name="mse")):
        rounded = round_one(gptq, weight, gram, GROUPED, clip, GptqRounding(name="gptq"))
        plain = round_one(rtn, weight, None, GROUPED, clip, RtnRounding())
        assert torch.equal(rounded.integers, plain.integers)
        assert torch.equal(rounded.scale, plain.scale)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("args", [GROUPED, CHANNEL])
def test_gptq_loses_less_output_than_round_to_nearest_on_correlated_inputs(seed, args):
    weight, x = layer(seed)
    gram = x.T @ x

    def lost(rounded):
        return (x @ (weight - value(rounded)).T).square().sum()

    plain = lost(round_one(rtn, weight, gram, args, None, RtnRounding()))
    assert lost(round_one(gptq, weight, gram, args, None, GptqRounding(name="gptq"))) < 0.7 * plain


def test_result_does_not_depend_on_the_scale_of_the_hessian():
    weight, x = layer()
    x[:, 3] = 0
    gram = x.T @ x
    first, second = (round_one(gptq, weight, gram * c, GROUPED, None, GptqRounding(name="gptq")) for c in (1, 2**-20))
    assert torch.equal(first.integers, second.integers)


@pytest.mark.parametrize("damping", [0.1, 0.01, 1e-3, 1e-4])
@pytest.mark.parametrize("rows", [16, 400])
def test_weights_move_by_no_more_steps_than_the_rounding_says(damping, rows):
    """Few tokens with outliers leave ordinary columns free to make up for those that large inputs read."""
    random = torch.Generator().manual_seed(0)
    weight, x = torch.randn(32, 256, generator=random), torch.randn(rows, 256, generator=random)
    x[:, :4] *= 100
    settings = GptqRounding(name="gptq", dampening_frac=damping)
    rounded = round_one(gptq, weight, x.T @ x, WeightArgs(num_bits=8, strategy="channel"), None, settings)
    moved = ((value(rounded) - weight) / rounded.scale).square().mean().sqrt().item()
    assert moved < settings.steps


def test_dead_columns_are_zero_and_leave_the_range_before_scales_are_chosen():
    weight, x = layer()
    weight[:, 7] = 1e6
    x[:, 7] = 0
    rounded = round_one(gptq, weight, x.T @ x, GROUPED, None, GptqRounding(name="gptq"))
    assert (value(rounded)[:, 7] == 0).all()
    assert rounded.scale.max() < 10


def test_channel_scales_of_row_parallel_linears_come_one_per_input_shard():
    weight, x = layer()
    rounded = round_one(gptq, weight, x.T @ x, CHANNEL, None, GptqRounding(name="gptq"), input_shards=4)
    assert rounded.scale.shape == (24, 4)
    assert torch.equal(rounded.scale[:, 1], stored_scale(weight[:, 16:32].abs().amax(1) / 7))


@pytest.mark.parametrize("n", [64, 256, 700])  # 700: three panels, the last one narrow; what is indefinite shows in the second
def test_damping_ladder_restarts_from_the_pristine_matrix(n):
    root = torch.randn(n, n // 8, generator=torch.Generator().manual_seed(0))
    hessian = root @ root.T  # rank n / 8
    hessian -= 0.03 * hessian.diagonal().mean() * torch.eye(n)  # needs damping above 0.03: 0.04
    factor = damped_cholesky(hessian.clone(), 0.01)
    assert factor is not None
    assert factor.damping == pytest.approx(0.04)
    mean = hessian.double().diagonal().mean()
    damped = hessian.double() + 0.04 * mean * torch.eye(n)
    lower = factor.lower.double().tril()
    torch.testing.assert_close(lower @ lower.T, damped, atol=1e-5 * n / 64, rtol=1e-5)
    assert factor.added == pytest.approx(0.04 * mean.item())
    assert 1 < factor.condition_number <= torch.linalg.cond(damped)


def test_singular_hessian_of_few_samples_is_factored():
    weight, x = layer(rows=3)
    rounded = round_one(gptq, weight, x.T @ x, GROUPED, None, GptqRounding(name="gptq"))
    assert rounded.fallback is None
    assert torch.isfinite(value(rounded)).all()


@pytest.mark.parametrize("rows", [3, 40, 400])  # of 64 inputs
@pytest.mark.parametrize("args", [GROUPED, CHANNEL, GROUPED.model_copy(update={"convention": "awq"})])
def test_what_is_lost_equals_the_product_with_the_inputs(args, rows):
    weight, x = layer(rows=rows)
    weight[:, :16] += 4  # with convention `awq` 0 is not on the grid of the first group
    x[:, 5] = 0
    gram = x.T @ x
    targets = [Target(part, args, None) for part in weight.split([10, 14])]
    for target, rounded in zip(targets, gptq.round_weights(targets, gram, GptqRounding(name="gptq")), strict=True):
        difference = (target.weight - value(rounded)).double()
        lost = torch.trace(difference @ gram.double() @ difference.T).item()
        assert rounded.lost == pytest.approx(lost, rel=1e-4)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e6])
@pytest.mark.parametrize("n", [64, 600])
def test_a_matrix_that_cannot_be_factored_is_left_as_it_was(wrong, n):
    x = torch.randn(2 * n, n, generator=torch.Generator().manual_seed(0))
    hessian = x.T @ x
    hessian = (hessian + hessian.T) / 2
    hessian[n - 24, 20] = hessian[20, n - 24] = wrong
    before = hessian.clone()
    assert damped_cholesky(hessian, 0.01) is None
    torch.testing.assert_close(hessian, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("n", [64, 600])
def test_an_ill_conditioned_matrix_is_factored_in_float64(n):
    scale = torch.logspace(0, -5, n).double()
    random = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).double()
    basis = torch.linalg.qr(random).Q
    hessian = ((basis * scale) @ basis.T).float()
    hessian = (hessian + hessian.T) / 2
    factor = damped_cholesky(hessian.clone(), 1e-6)
    assert factor is not None
    lower = factor.lower.double().tril()
    torch.testing.assert_close((lower @ lower.T).float(), hessian + factor.added * torch.eye(n), atol=1e-6, rtol=0)


@pytest.mark.parametrize("broken", ["nan", "indefinite"])
def test_unusable_hessian_falls_back_to_round_to_nearest_and_says_so(broken):
    weight, x = layer()
    gram = x.T @ x
    gram = gram * float("nan") if broken == "nan" else gram - 50 * gram.diagonal().mean() * torch.ones(64, 64)
    if broken == "indefinite":
        gram.diagonal().copy_((x.T @ x).diagonal())
    rounded = round_one(gptq, weight, gram, GROUPED, None, GptqRounding(name="gptq"))
    plain = round_one(rtn, weight, None, GROUPED, None, RtnRounding())
    assert torch.equal(rounded.integers, plain.integers)
    assert rounded.fallback is not None
    assert rounded.damping is None
