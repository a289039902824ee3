"""AWQ against slow references that run the data through the linears, one grid point at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptqflow.artifacts import schemas
from ptqflow.artifacts.tables import read_table
from ptqflow.devices.device import select
from ptqflow.methods.block import BlockInputs, BlockRounder
from ptqflow.methods.clips.search import clipped_range
from ptqflow.methods.clips.search_settings import SearchClip
from ptqflow.methods.roundings import rtn
from ptqflow.methods.roundings.rtn_settings import RtnRounding
from ptqflow.methods.scaling import SiteInputs
from ptqflow.methods.transforms import awq
from ptqflow.methods.transforms.awq_settings import AwqTransform
from ptqflow.modeling.blocks import Blocks, forward, watch_sites
from ptqflow.modeling.dimensions import head_dim
from ptqflow.modeling.qparams import transformed
from ptqflow.numerics.gram import LeadingPart, LowerHalf
from ptqflow.numerics.grid import dequantize_weight, group_weight
from ptqflow.presets import resolve
from ptqflow.recipes import Override, Recipe
from ptqflow.scheme import Scheme, WeightArgs
from ptqflow.transforms import diagonal
from rounding_helpers import round_one
from safetensors.torch import load_file
from tiny_models import QWEN2, export, quantize, tiny_model
from transformers import AutoModelForCausalLM

GROUPED = WeightArgs(num_bits=3, symmetric=False, strategy="group", group_size=16)
CHANNEL = WeightArgs(num_bits=4, strategy="channel")
TENSOR = WeightArgs(num_bits=4, symmetric=False, strategy="tensor")
CLIP = SearchClip(name="search")


def data(seed=0, width=64, rows=300):
    """Correlated inputs with a few large channels."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=random) @ torch.randn(width, width, generator=random) / width**0.5
    x[:, :4] *= 20
    return x, [torch.randn(out, width, generator=random) for out in (24, 8)]


def site(x, weights, args, **more):
    return SiteInputs(x.abs().mean(0), x.abs().amax(0), weights, args, x.T @ x, lambda v, how: v, **more)


def rounded(weight, args):
    parts = round_one(rtn, weight, None, args, None, RtnRounding())
    return dequantize_weight(parts.integers, parts.scale, parts.zero_point)


def reference(x, weights, args):
    """Section 2.1, step 3: the losses of all ratios by explicit products, and the first best scale."""
    losses, scales = [], []
    for i in range(20):
        s = x.abs().mean(0).pow(i / 20).clamp(min=1e-4)
        s = s / (s.max() * s.min()).sqrt()
        lost = [(x @ (w - rounded(w * s, args) / s).T).double().square().sum() for w in weights]
        losses.append(sum(lost).item())
        scales.append(s)
    return losses, scales[losses.index(min(losses))]


@pytest.mark.parametrize("args", [GROUPED, CHANNEL, TENSOR])
@pytest.mark.parametrize("seed", range(3))
def test_search_equals_a_reference_with_a_forward_pass_per_grid_point(args, seed):
    x, weights = data(seed)
    inputs = site(x, weights, [args, args])
    losses, best = reference(x, weights, args)
    candidates = awq.scale_candidates(inputs, AwqTransform(name="awq"))
    found = sum(awq.row_losses(w, LowerHalf(inputs.gram), args, candidates).double().sum(1) for w in weights)
    torch.testing.assert_close(found, torch.tensor(losses, dtype=torch.float64), rtol=1e-3, atol=0)
    assert torch.equal(candidates[0], torch.ones(64))
    torch.testing.assert_close(awq.smoothing_scale(inputs, AwqTransform(name="awq")), best)
    assert min(losses) < losses[0]


@pytest.mark.parametrize("args", [GROUPED, CHANNEL, TENSOR])
@pytest.mark.parametrize("seed", range(3))
def test_points_that_leave_the_race_would_have_lost(args, seed, monkeypatch):
    x, _ = data(seed)
    weights = [torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed)) for rows in (700, 350)]
    inputs = site(x, weights, [args, args])
    scales = awq.scale_candidates(inputs, AwqTransform(name="awq"))
    everything = sum(awq.row_losses(w, LowerHalf(inputs.gram), args, scales).double().sum(1) for w in weights)
    measured = []
    forms = LowerHalf.quadratic_forms
    monkeypatch.setattr(LowerHalf, "quadratic_forms", lambda half, lost: measured.append(len(lost)) or forms(half, lost))
    assert awq.best_point([(w, args) for w in weights], inputs.gram, scales) == everything.argmin()
    assert sum(measured) < 0.7 * 20 * 1050 or args is TENSOR


@pytest.mark.parametrize("rough", ["as it is", "nothing", "misleading"])
@pytest.mark.parametrize("seed", range(3))
def test_rough_losses_save_products_and_however_wrong_mislead_nobody(rough, seed, monkeypatch):
    x, _ = data(seed, width=256, rows=600)
    weights = [torch.randn(rows, 256, generator=torch.Generator().manual_seed(seed)) for rows in (1500, 700)]
    inputs = site(x, weights, [GROUPED, GROUPED])
    scales = awq.scale_candidates(inputs, AwqTransform(name="awq"))
    exact = sum(awq.row_losses(w, LowerHalf(inputs.gram), GROUPED, scales).double().sum(1) for w in weights)
    measured, forms = [], LowerHalf.quadratic_forms
    monkeypatch.setattr(LowerHalf, "quadratic_forms", lambda half, lost: measured.append(len(lost)) or forms(half, lost))
    if rough != "as it is":
        wrong = {"nothing": lambda lost: lost.new_zeros(len(lost)), "misleading": lambda lost: 1e4 / lost.square().sum(1)}[rough]
        monkeypatch.setattr(LeadingPart, "quadratic_forms", lambda part, lost: wrong(lost))
    best = awq.best_point([(w, GROUPED) for w in weights], inputs.gram, scales)
    assert exact[best] <= 1.002 * exact.min()
    assert sum(measured) < 0.15 * 20 * 2200 or rough != "as it is"


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_lose_more_than_all_others_together_decide(seed):
    x, _ = data(seed, width=256, rows=600)
    weight = torch.randn(3000, 256, generator=torch.Generator().manual_seed(seed))
    weight[17] *= 300
    weight[17, 40] *= 30  # other columns matter to it than to the others
    inputs = site(x, [weight], [GROUPED])
    scales = awq.scale_candidates(inputs, AwqTransform(name="awq"))
    exact = awq.row_losses(weight, LowerHalf(inputs.gram), GROUPED, scales).double().sum(1)
    assert exact[awq.best_point([(weight, GROUPED)], inputs.gram, scales)] <= 1.002 * exact.min()


def test_weights_of_zeros_need_no_scale():
    x, _ = data(width=256)
    inputs = site(x, [torch.zeros(300, 256)], [GROUPED])
    assert awq.smoothing_scale(inputs, AwqTransform(name="awq")).eq(1).all()


def test_a_point_that_is_not_finite_loses_the_race():
    x, weights = data()
    scales = torch.stack([torch.full((64,), torch.nan), torch.ones(64), torch.full((64,), torch.inf)])
    assert awq.best_point([(w, GROUPED) for w in weights], x.T @ x, scales) == 1


def test_wide_inputs_are_measured_as_narrow_ones_are():
    x, _ = data(width=640)  # several column pieces
    weight = torch.randn(40, 640)
    scales = torch.rand(3, 640) + 0.5
    found = awq.row_losses(weight, LowerHalf(x.T @ x), GROUPED, scales).sum(1)
    for s, loss in zip(scales, found, strict=True):
        assert loss.item() == pytest.approx((x @ (weight - rounded(weight * s, GROUPED) / s).T).square().sum().item(), rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), bits=st.integers(2, 8), symmetric=st.booleans(), duo=st.booleans(), spread=st.floats(0.1, 100))
def test_scaling_never_loses_to_round_to_nearest(seed, bits, symmetric, duo, spread):
    x, weights = data(seed)
    x[:, :7] *= spread
    args = WeightArgs(num_bits=bits, symmetric=symmetric, strategy="group", group_size=16)
    s = awq.smoothing_scale(site(x, weights, [args, args]), AwqTransform(name="awq", duo_scaling=duo))
    plain = sum((x @ (w - rounded(w, args)).T).double().square().sum() for w in weights)
    scaled = sum((x @ (w - rounded(w * s, args) / s).T).double().square().sum() for w in weights)
    assert scaled <= plain * 1.0001


@pytest.mark.parametrize("seed", [4, 17, 29, 46])
def test_what_a_norm_rounds_a_scale_by_was_searched_too(seed, tmp_path):
    """Two rows lose more than all others, and a bfloat16 norm moves some of their weights to the other side of a step."""
    blocks = Blocks(tiny_model(tmp_path / "m", dtype=torch.bfloat16, layers=1), torch.device("cpu"), torch.float32)
    random, x = torch.Generator().manual_seed(seed), data(seed, 128)[0]
    x[:, :4] /= 20
    weights = [torch.randn(24, 128, generator=random) * 0.08 for _ in range(2)]
    weights[1][:2] *= 20
    tensors = blocks.tensors(0) | {
        f"model.layers.0.{name}.weight": tensor for name, tensor in zip(("mlp.gate_proj", "mlp.up_proj"), weights, strict=True)
    }
    norm = (1 + 0.1 * torch.randn(128, generator=random)).bfloat16()
    tensors["model.layers.0.post_attention_layernorm.weight"] = norm
    args = WeightArgs(num_bits=3, symmetric=False, strategy="group", group_size=32)
    others = {"linears": ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"], "weights": None}
    recipe = Recipe(scheme=Scheme(weights=args), overrides=[Override(**others)], transform={"name": "awq"})
    inputs = BlockInputs({"gate_up": x.T @ x}, len(x), {"gate_up": x.abs().mean(0)}, {}, 32, 2)
    (s,) = BlockRounder(QWEN2, 0, tensors, inputs, recipe, select("cpu")).scales.values()
    assert torch.equal(diagonal.representable(s, norm), s)
    losses = [sum((x @ (w - rounded(w * s, args) / s).T).double().square().sum() for w in weights) for s in (s, torch.ones(128))]
    assert losses[0] <= losses[1] * 1.0001


def test_duo_scaling_divides_by_the_weights_share_of_their_groups():
    x, weights = data()
    candidates = awq.scale_candidates(site(x, weights, [GROUPED, GROUPED]), AwqTransform(name="awq", duo_scaling=True))
    assert candidates.shape == (21, 64)
    grouped = torch.cat(weights).view(-1, 4, 16).abs()
    share = (grouped / (grouped.amax(-1, keepdim=True) + 1e-6)).view(-1, 64).mean(0)
    s = (x.abs().mean(0).pow(0.4) / (share.pow(0.6) + 1e-4)).clamp(min=1e-4)
    torch.testing.assert_close(candidates[1 + 8], s / (s.max() * s.min()).sqrt())


def test_linears_in_high_precision_have_no_say():
    x, weights = data()
    alone = awq.smoothing_scale(site(x, weights[:1], [GROUPED]), AwqTransform(name="awq"))
    assert torch.equal(awq.smoothing_scale(site(x, weights, [GROUPED, None]), AwqTransform(name="awq")), alone)
    assert awq.smoothing_scale(site(x, weights, [None, None]), AwqTransform(name="awq")) is None


def clamped(weight, limit):
    """Weight [out, in] with each group clamped to ±limit [out, groups]."""
    groups, limit = weight.unflatten(1, (limit.shape[1], -1)), limit.unsqueeze(-1)
    return torch.maximum(torch.minimum(groups, limit), -limit).flatten(1)


def group_errors(x, weight, args, limit):
    """Lost output [out, groups], each group's inputs alone, of a weight rounded on the grid of the clamped weight."""
    grid = round_one(rtn, clamped(weight, limit), None, args, None, RtnRounding())
    scale, zero = grid.scale.unsqueeze(-1), grid.zero_point.unsqueeze(-1).float()
    groups = weight.unflatten(1, (limit.shape[1], -1))
    low, high = (-(2 ** (args.num_bits - 1)), 2 ** (args.num_bits - 1) - 1) if args.symmetric else (0, 2**args.num_bits - 1)
    lost = groups - (torch.clamp(torch.round(groups / scale) + zero, low, high) - zero) * scale
    return torch.einsum("rgn,tgn->trg", lost, x.view(len(x), limit.shape[1], -1)).double().square().sum(0)


@pytest.mark.parametrize("args", [GROUPED, CHANNEL, GROUPED.model_copy(update={"symmetric": True})])
def test_clip_search_equals_a_reference_over_all_tokens(args):
    x, (weight, _) = data()
    weight = weight.pow(3)
    groups = group_weight(weight, args.strategy, args.group_size)
    low, high = clipped_range(groups, x.T @ x, args, CLIP)
    largest = groups.abs().amax(-1)
    errors = torch.stack([group_errors(x, weight, args, largest * (1 - i / 20)) for i in range(10)])
    best = largest * (1 - errors.argmin(0) / 20)
    different = ~torch.isclose(torch.maximum(-low, high), best)
    assert different.float().mean() < 0.02  # near ties in float32
    assert (errors.argmin(0) > 0).float().mean() > 0.3
    chosen = group_errors(x, weight, args, torch.maximum(-low, high))
    assert (chosen <= errors[0] * 1.0001).all()


def test_clipped_weights_are_rounded_as_clamped_ones_are():
    """But where both ends were: then the zero point lies halfway between two integers, and limits round either way."""
    x, (weight, _) = data()
    found = round_one(rtn, weight, x.T @ x, GROUPED, CLIP, RtnRounding())
    low, high = clipped_range(group_weight(weight, "group", 16), x.T @ x, GROUPED, CLIP)
    one_sided = (low != -high).repeat_interleave(16, 1)
    assert one_sided.float().mean() > 0.5
    value = dequantize_weight(found.integers, found.scale, found.zero_point)
    torch.testing.assert_close(value[one_sided], rounded(clamped(weight, torch.maximum(-low, high)), GROUPED)[one_sided])


def test_channels_that_no_input_excites_keep_their_range():
    _, (weight, _) = data()
    low, high = clipped_range(group_weight(weight, "group", 16), torch.zeros(64, 64), GROUPED, CLIP)
    assert torch.equal(high - low, group_weight(weight, "group", 16).amax(-1) - group_weight(weight, "group", 16).amin(-1))
    with pytest.raises(ValueError, match="Gram matrix"):
        round_one(rtn, weight, None, GROUPED, CLIP, RtnRounding())


def test_q_and_k_are_not_clipped():
    recipe = resolve({"preset": "awq-w4a16"})
    assert [linear for linear in ("q_proj", "k_proj", "v_proj", "o_proj") if recipe.clip_of(linear) is None] == [
        "q_proj",
        "k_proj",
    ]


@pytest.mark.parametrize("key", ["awq", "tensor"])
def test_impossible_recipes_are_refused(key):
    weights = {"num_bits": 4, "strategy": "tensor"}
    entry = {
        "awq": {"scheme": {"input_activations": {"num_bits": 8}}, "transform": {"name": "awq"}},
        "tensor": {"scheme": {"weights": weights}, "clip": {"name": "search"}},
    }[key]
    with pytest.raises(ValueError, match={"awq": "give scheme.weights", "tensor": "row by row"}[key]):
        resolve(entry)


def awq_recipe(**transform):
    return resolve({"preset": "awq-w3a16", "transform": {"name": "awq", **transform}})


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("gqa_vo", [True, False])
def test_awq_scales_preserve_the_blocks_output(kind, gqa_vo, tmp_path):
    blocks = Blocks(tiny_model(tmp_path / "m", kind, layers=1), torch.device("cpu"), torch.float64)
    tensors, hidden = blocks.tensors(0), torch.randn(8, 32, 128, dtype=torch.float64)
    seen = {}
    with watch_sites(block := blocks.build(0, tensors), lambda site, x: seen.update({site: x.flatten(0, 1)})):
        before = forward(block, hidden, blocks.positions(32))
    means, peaks = ({s: f(x.abs()) for s, x in seen.items()} for f in (lambda x: x.mean(0), lambda x: x.amax(0)))
    inputs = BlockInputs({s: (x.T @ x).float() for s, x in seen.items()}, 256, means, peaks, head_dim(blocks.config.to_dict()), 2)
    rounder = BlockRounder(QWEN2, 0, tensors, inputs, awq_recipe(gqa_vo=gqa_vo), select("cpu"))
    rounder.round_all()
    qparams, rows = rounder.qparams, rounder.rows
    scales = {key: value for key, value in qparams.items() if key.endswith("smoothing_scale")}
    assert ("model.layers.0.o.smoothing_scale" in scales) == gqa_vo
    assert all(scale.unique().numel() > 1 for scale in scales.values())
    after = forward(
        blocks.build(0, {name: transformed(name, t, scales, QWEN2) for name, t in tensors.items()}), hidden, blocks.positions(32)
    )
    assert ((after - before).norm() / (before - hidden).norm()).item() < 1e-6
    notes = {row["module"]: row["fallback"] for row in rows if row["fallback"]}
    assert notes == ({} if gqa_vo else {"o_proj": "awq: input not scaled, 2 query heads share a value head (gqa_vo: false)"})


@pytest.mark.parametrize("gqa_vo", [True, False])
def test_awq_loses_less_than_round_to_nearest_in_every_linear(gqa_vo, model, calibration, work):
    def errors(recipe, name):
        (path,) = quantize(model, calibration, recipe, work / name)
        rows = read_table(path.parent / "diagnostics.parquet", schemas.DIAGNOSTICS).to_pandas()
        return rows.set_index(["layer", "module"])

    unclipped = Recipe.model_validate({**awq_recipe(gqa_vo=gqa_vo).dump(), "clip": {"name": "none"}})
    plain = errors(resolve({"preset": "rtn-w3a16", "error_propagation": False}), f"rtn-{gqa_vo}")
    scaled = errors(unclipped, f"scaled-{gqa_vo}")
    clipped = errors(awq_recipe(gqa_vo=gqa_vo), f"clipped-{gqa_vo}")
    for layer in range(3):
        for linears in (["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]):
            mse = [
                sum(table.output_mse[layer, linear] * (2 if linear == "q_proj" else 1) for linear in linears)
                for table in (plain, scaled)
            ]
            if linears != ["q_proj", "k_proj", "v_proj"]:
                assert mse[1] <= mse[0] * 1.0001
            else:  # q has twice the rows of k and v; the search counts errors, not means
                assert mse[1] < mse[0]
        assert scaled.output_error[layer, "block"] < plain.output_error[layer, "block"]
    assert clipped.output_error[:, "block"].mean() < scaled.output_error[:, "block"].mean() * 1.05


def test_checkpoint_of_a_scaled_recipe_runs_in_stock_transformers(model, calibration, work):
    recipe = resolve({"preset": "awq-w4a16", "transform": {"name": "awq", "gqa_vo": True}})
    paths = quantize(model, calibration, recipe, work / "export")
    folder = export(model, paths, recipe, work / "checkpoint")
    qparams, written = load_file(paths[0]), load_file(folder / "model.safetensors")
    source = load_file(model / "model.safetensors")
    scale = qparams["model.layers.1.o.smoothing_scale"]
    name = "model.layers.1.self_attn.v_proj.bias"
    torch.testing.assert_close(written[name], source[name] / scale[:, 0].flatten())
    plain = resolve({"preset": "rtn-w4a16"})
    other = export(model, quantize(model, calibration, plain, work / "plain"), plain, work / "plain-checkpoint")
    tokens = torch.randint(3, 64, (8, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, scaled, rtn_only = (
            AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).eval()(tokens).logits for f in (model, folder, other)
        )
    assert (scaled - before).norm() < 0.9 * (rtn_only - before).norm()
