import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptqflow.artifacts import schemas
from ptqflow.artifacts.tables import read_table
from ptqflow.devices.device import select
from ptqflow.errors import ConfigError
from ptqflow.methods.clips import auto, mse
from ptqflow.methods.clips.auto_settings import AutoClip
from ptqflow.methods.clips.hessian import clipped_range
from ptqflow.methods.clips.hessian_settings import HessianClip
from ptqflow.methods.clips.mse_settings import MseClip
from ptqflow.methods.layer import quantize_layer
from ptqflow.methods.rounding import HeldOut, Target
from ptqflow.methods.roundings import gptq, rtn
from ptqflow.methods.roundings.gptq_settings import GptqRounding
from ptqflow.methods.roundings.rtn_settings import RtnRounding
from ptqflow.modeling.blocks import Blocks, forward
from ptqflow.modeling.qparams import deployed
from ptqflow.numerics.grid import dequantize, dequantize_weight, group_weight, scale_and_zero_point
from ptqflow.numerics.grid import quantize as on_grid
from ptqflow.presets import resolve
from ptqflow.scheme import WeightArgs
from rounding_helpers import round_one
from tiny_models import collect, quantize, tiny_model

ARGS = WeightArgs(num_bits=3, symmetric=False, strategy="group", group_size=16)
ROUNDINGS = [(gptq, GptqRounding(name="gptq")), (rtn, RtnRounding())]
KINDS = ["independent", "few directions", "correlated"]
CLIPS = {"none": None, "mse": MseClip(name="mse"), "hessian": HessianClip(name="hessian")}


def inputs(kind, seed, rows=160, width=64):
    """Independent inputs; of few directions, with a little noise; or correlated, with some large channels."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    if kind == "independent":
        return normal(rows, width)
    if kind == "few directions":
        mix = normal(8, width) * torch.rand(width, generator=random).square() * 10
        return normal(rows, 8) @ mix + 0.1 * normal(rows, width)
    return normal(rows, width) @ (normal(width, width) * torch.rand(width, generator=random).pow(4) * 10)


def weight(seed, out=24, width=64):
    """Of heavy tails, more or less."""
    random = torch.Generator().manual_seed(100 + seed)
    return torch.randn(out, width, generator=random) * (1 + seed % 3 * torch.randn(out, width, generator=random).square())


def value(rounded):
    return dequantize_weight(rounded.integers, rounded.scale, rounded.zero_point)


def choose(x, late, weights, args, method, settings, judge=None):
    targets = [Target(of, args, AutoClip(name="auto")) for of in weights]
    return auto.choose(targets, x.T @ x, HeldOut(late.T @ late, judge), lambda t, gram: method.round_weights(t, gram, settings))


@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    of=st.sampled_from(ROUNDINGS),
    late=st.integers(1, 100),
)
@settings(max_examples=10, deadline=None)
def test_the_choice_is_that_of_all_candidates_on_the_held_out_rows_themselves(kind, seed, bits, symmetric, of, late):
    (method, by), x, weights = of, inputs(kind, seed), [weight(seed % 100), weight(seed % 100 + 1)]
    args, held_out = ARGS.model_copy(update={"num_bits": bits, "symmetric": symmetric}), x[160 - late :]
    others = x.T @ x - held_out.T @ held_out
    for exact, target, errors in zip(weights, *choose(x, held_out, weights, args, method, by), strict=True):
        expected = {}
        for name, clip in CLIPS.items():
            lost = held_out @ (exact - value(round_one(method, exact, others, args, clip, by))).T
            expected[name] = (lost.square().sum() / (held_out @ exact.T).square().sum()).item()
        assert errors == pytest.approx(expected, rel=1e-3, abs=1e-9)
        assert (target.clip, target.args) == (CLIPS[min(errors, key=errors.get)], args)
        assert target.weight is exact


@pytest.mark.parametrize(("kind", "best"), [("independent", "mse"), ("few directions", "none"), ("correlated", "hessian")])
def test_each_clip_is_best_for_some_inputs(kind, best):
    found = []
    for seed in range(4):
        x = inputs(kind, seed)
        found += [target.clip for target in choose(x, x[120:], [weight(seed)], ARGS, *ROUNDINGS[0])[0]]
    assert CLIPS[best] in found


def test_rows_that_count_more_in_the_choice_count_as_others_in_the_rounding():
    x, (w,), (method, by) = inputs("correlated", 0), [weight(0)], ROUNDINGS[0]
    late, counts = x[120:], torch.rand(40, 1, generator=torch.Generator().manual_seed(0)).pow(4) * 100
    ((target,), (errors,)) = choose(x, late, [w], ARGS, method, by, (late * counts).T @ late)
    for name, clip in CLIPS.items():
        lost = late @ (w - value(round_one(method, w, x[:120].T @ x[:120], ARGS, clip, by))).T
        expected = (counts * lost.square()).sum() / (counts * (late @ w.T).square()).sum()
        assert errors[name] == pytest.approx(expected.item(), rel=1e-2)
    assert target.clip == CLIPS[min(errors, key=errors.get)]


def test_a_clip_weighted_by_the_hessian_equals_brute_force():
    x, w, clip = inputs("correlated", 0), weight(2), HessianClip(name="hessian")
    gram = x.T @ x
    groups = group_weight(w, "group", 16)
    low, high = clipped_range(groups, gram, ARGS, clip)
    by_hand = gram.diagonal().double().view(4, 16)
    for row in range(0, len(w), 4):
        for group in range(4):
            values = groups[row, group]
            losses = []
            for i in range(80):
                ends = values.clamp(values.min() * (1 - i / 100), values.max() * (1 - i / 100)).aminmax()
                losses.append((_on_grid(values, *ends) - values).double().square().mul(by_hand[group]).sum().item())
            ratio = (high[row, group] / values.max()).item()
            assert losses[round(100 * (1 - ratio))] == pytest.approx(min(losses), rel=1e-4)
            assert (low[row, group] / values.min()).item() == pytest.approx(ratio)


def _on_grid(values, low, high):
    scale, zero_point = scale_and_zero_point(low, high, ARGS.grid)
    return dequantize(on_grid(values, scale, zero_point, ARGS.grid), scale, zero_point)


def test_equal_inputs_of_all_channels_make_it_the_mse_clip_of_norm_2():
    w = group_weight(weight(1), "group", 16)
    same = mse.clipped_range(w, None, ARGS, MseClip(name="mse", norm=2.0))
    torch.testing.assert_close(clipped_range(w, torch.eye(64), ARGS, HessianClip(name="hessian")), same)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    model = tiny_model(folder / "model", layers=1)
    return model, collect(model, folder)


@pytest.mark.parametrize("entry", [{"preset": "awq-w3a16"}, {"preset": "awq-gptq-w3a16"}])
def test_a_study_says_what_each_linear_chose(entry, tiny, tmp_path):
    """By the walk site by site and by that of all sites at once, with scalings."""
    rows = {}
    for name in ("none", "mse", "hessian", "auto"):
        clip = {"name": name} | ({"by": "linear"} if name == "auto" else {})
        (path,) = quantize(*tiny, resolve({**entry, "clip": clip}), tmp_path / name)
        table = read_table(path.parent / "diagnostics.parquet", schemas.DIAGNOSTICS).to_pylist()
        rows[name] = {row["module"]: row for row in table}
    assert rows["auto"].pop("block")["clip"] is None
    assert all(row["clip"] is None and row["clip_errors"] is None for row in rows["mse"].values())
    for row in rows["auto"].values():
        errors = json.loads(row["clip_errors"])
        assert [*errors] == ["none", "mse", "hessian"]
        assert errors[row["clip"]] == min(errors.values()) > 0
    # What is read first is rounded as by the single choice, under all sequences.
    row = rows["auto"]["q_proj"]
    assert row["output_error"] == pytest.approx(rows[row["clip"]]["q_proj"]["output_error"], rel=1e-5)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_block_takes_the_clip_that_loses_least_of_its_output_on_sequences_held_out(tiny, asymmetric):
    rounding = {"name": "gptq", "asymmetric_calibration": asymmetric}
    recipe = resolve({"preset": "gptq-w3a16", "clip": {"name": "auto"}, "rounding": rounding})
    device, blocks = select("cpu"), Blocks(tiny[0], torch.device("cpu"), torch.float32)
    hidden = torch.randn(8, 16, blocks.config.hidden_size, generator=torch.Generator().manual_seed(3))
    beside = hidden + 0.01 * torch.randn_like(hidden) if asymmetric else None

    def by(clip, sequences):
        exact = beside[:sequences].clone() if beside is not None else None
        own = recipe.model_copy(update={"clip": clip})
        return quantize_layer(blocks, 0, hidden[:sequences].clone(), {}, own, device, last=True, exact=exact)[:2]

    tensors, positions, late = blocks.tensors(0), blocks.positions(16), hidden[4:]
    aimed = late if beside is None else beside[4:]  # at the float model's output, where its states are at hand
    target, expected = forward(blocks.build(0, tensors), aimed, positions), {}
    for name, clip in recipe.clip.candidates().items():
        qparams, _ = by(clip, 4)
        weights = {n: deployed(n, t, qparams, blocks.architecture) for n, t in tensors.items()}
        lost = forward(blocks.build(0, weights), late, positions) - target
        expected[name] = (lost.square().sum() / (target - aimed).square().sum()).item()
    found, rows = by(recipe.clip, 8)
    assert json.loads(rows[-1]["clip_errors"]) == pytest.approx(expected, rel=1e-4)
    assert rows[-1]["clip"] == min(expected, key=expected.get)
    alone, _ = by(recipe.clip.candidates()[rows[-1]["clip"]], 8)
    assert all(torch.equal(found[name], tensor) for name, tensor in alone.items())


@pytest.mark.parametrize("name", ["auto", "hessian"])
def test_rows_without_ranges_of_their_own_are_refused(name):
    with pytest.raises(ValueError, match=f"clip {name} works row by row"):
        resolve({"preset": "rtn-w8a8", "clip": {"name": name}, "scheme": {"weights": {"strategy": "tensor"}}})


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(ValueError, match="held_out"):
        resolve({"preset": "gptq-w4a16", "clip": {"name": "auto", "held_out": share}})


def test_a_learned_transform_has_clips_of_its_own():
    with pytest.raises(ValueError, match="clip none instead of auto"):
        resolve({"preset": "flatquant-w4a4kv4", "clip": {"name": "auto"}})


@pytest.mark.parametrize("by", ["linear", "block"])
def test_a_recipe_says_how_often_a_block_is_rounded(by):
    """Which is what its jobs ask time for."""
    assert AutoClip(name="auto", by=by).roundings == {"linear": 3 + 1, "block": 3 + (3 + 1) + (3 + 1)}[by]
    assert MseClip(name="mse").roundings == 1


def test_sequences_on_both_sides_or_none_at_all():
    clip = AutoClip(name="auto")
    assert [clip.held_out_of(n) for n in (2, 3, 8, 64)] == [1, 1, 4, 32]
    assert AutoClip(name="auto", by="linear", held_out=0.99).held_out_of(3) == 2
    assert MseClip(name="mse").held_out_of(8) == 0
    with pytest.raises(ConfigError, match="at least 4"):
        clip.held_out_of(1)


def test_what_is_not_held_out_of_a_block_suffices_to_choose_by_linear(tmp_path):
    """However large the share: what is left, of which the mixture by linear holds some out, would else be a single sequence."""
    blocks = Blocks(tiny_model(tmp_path / "m", layers=1), torch.device("cpu"), torch.float32)
    recipe = resolve({"preset": "gptq-w4a16", "clip": {"name": "auto", "held_out": 0.9}})
    hidden = blocks.embed(torch.randint(3, 64, (8, 24), generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        _, rows, _ = quantize_layer(blocks, 0, hidden, {}, recipe, select("cpu"), last=True)
    assert json.loads(rows[-1]["clip_errors"]).keys() == {"none", "mse", "hessian", "each"}


def test_without_rows_that_choose_nothing_is_clipped_in_silence():
    with pytest.raises(ValueError, match="clip auto clips nothing itself"):
        round_one(rtn, weight(0), torch.eye(64), ARGS, AutoClip(name="auto"), RtnRounding())
