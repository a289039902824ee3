"""A FlatQuant block is deployed as it was learned: against dense float64 arithmetic, on sizes that are no powers of two."""

import pytest
import torch
from ptqflow.devices.device import select
from ptqflow.methods import flat_block
from ptqflow.methods.layer import quantize_layer
from ptqflow.methods.transforms import flatquant
from ptqflow.modeling.anatomy import SITES, block_prefix, smoothing_key
from ptqflow.modeling.blocks import Blocks, forward, watch_sites
from ptqflow.modeling.qparams import deployed
from ptqflow.modeling.shapes import shards_of
from ptqflow.numerics.grid import dequantize_weight
from ptqflow.presets import resolve
from ptqflow.scheme import ActivationArgs
from ptqflow.transforms import diagonal
from tiny_models import QWEN2, tiny_model

PREFIX = block_prefix(0)
SHAPES = {
    "seven queries to a key": ("qwen2", 1, {"hidden_size": 66, "intermediate_size": 130, "num_attention_heads": 7}),
    "four shards": ("qwen3", 4, {"hidden_size": 60, "intermediate_size": 88, "num_attention_heads": 8}),
    "biases": ("llama", 2, {"hidden_size": 90, "intermediate_size": 132, "num_attention_heads": 6, "mlp_bias": True}),
}


def perturbed(*arguments):
    """Parameters as training might leave them: no two alike."""
    learned = flat_block.Learned(*arguments)
    for parameter in learned.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return learned


@pytest.fixture(scope="module", params=SHAPES)
def learned(request, tmp_path_factory):
    """Blocks, recipe, what was learned of block 0, and its qparams."""
    kind, shards, shape = SHAPES[request.param]
    shape = shape | {"num_key_value_heads": 1 if kind == "qwen2" else 2, "head_dim": 10}
    source = tiny_model(tmp_path_factory.mktemp("m"), kind, torch.bfloat16, layers=1, **shape)
    blocks, peaks, found = Blocks(source, torch.device("cpu"), torch.float32), {}, []
    recipe = resolve({"preset": "flatquant-w4a4kv4", "transform": {"name": "flatquant", "epochs": 0}, "input_shards": shards})
    hidden = blocks.embed(torch.randint(3, 64, (5, 13), generator=torch.Generator().manual_seed(0)))
    with watch_sites(block := blocks.build(0, blocks.tensors(0)), lambda site, x: peaks.update({site: x.abs().amax((0, 1))})):
        forward(block, hidden, blocks.positions(13))
    learn = flatquant.learn
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(flatquant, "Learned", perturbed)
        patch.setattr(flatquant, "learn", lambda *arguments: found.append(learn(*arguments)) or found[0])
        qparams, _, _ = quantize_layer(blocks, 0, hidden, peaks, recipe, select("cpu"))
    assert found[0].fallback is None
    return blocks, recipe, found[0], qparams


def weight_name(linear):
    return f"{QWEN2.linear_prefix(0, linear)}.weight"


def dense(transforms, site):
    """The n x n matrix of a site's input."""
    left, right = transforms.sides(site)
    shards = max(len(left), len(right))
    return torch.block_diag(*[torch.kron(a, b) for a, b in zip(left, right.expand(shards, -1, -1), strict=True)])


def rounded(qparams, linear):
    return dequantize_weight(
        *(qparams[f"{QWEN2.linear_prefix(0, linear)}.{part}"] for part in ("integers", "scale", "zero_point"))
    )


def test_weights_are_folded_with_the_dense_inverses(learned):
    blocks, _, flat, _ = learned
    tensors, transforms = blocks.tensors(0), flat.transforms
    for site in SITES:
        inverse = torch.linalg.inv(dense(transforms, site.name)).T
        for linear in site.linears:
            weight = tensors[weight_name(linear)].double() / transforms.scales.get(site.name, 1)
            expected = weight @ inverse
            if linear == "v_proj":
                heads = weight.shape[0] // transforms.matrices["v"].shape[-1]
                expected = torch.block_diag(*[transforms.matrices["v"][0]] * heads).T @ expected
            if linear == "up_proj":
                expected *= transforms.scales["down"].unsqueeze(1)
            torch.testing.assert_close(flat.tensors[weight_name(linear)].double(), expected, rtol=1e-5, atol=1e-6)


def test_integers_are_those_of_rows_clipped_at_both_ends_by_their_own_ratios(learned):
    _, recipe, flat, qparams = learned
    for linear in QWEN2.linears:
        weight, ratios, shards = flat.tensors[weight_name(linear)], flat.weight_clips[linear].float(), shards_of(recipe, linear)
        rows = [
            row.clamp(row.min().clamp(max=0) * low, row.max().clamp(min=0) * high)
            for row, (low, high) in zip(weight, ratios, strict=True)
        ]
        parts = torch.stack(rows).unflatten(1, (shards, -1))
        scale = (parts.abs().amax(-1) / 7).bfloat16().float()
        integers = (parts / scale.unsqueeze(-1)).round().clamp(-8, 7).flatten(1)
        assert torch.equal(qparams[f"{QWEN2.linear_prefix(0, linear)}.scale"], scale)
        assert torch.equal(qparams[f"{QWEN2.linear_prefix(0, linear)}.integers"].float(), integers)
        assert (ratios[:, 0] != ratios[:, 1]).all()


def test_weights_that_the_trainer_sees_are_those_that_are_deployed(learned):
    blocks, recipe, flat, qparams = learned
    folded = {name.removeprefix(PREFIX): tensor for name, tensor in flat.tensors.items()}
    seen = flat_block.quantize_weights(folded, flat.transforms.to(blocks.device, torch.float32), recipe, 0)
    for linear in QWEN2.linears:
        assert torch.equal(seen[f"{QWEN2.module_name(linear)}.weight"], rounded(qparams, linear))


def test_norms_and_ratios_are_learned_to_what_the_checkpoint_can_hold(learned):
    blocks, _, flat, qparams = learned
    tensors = blocks.tensors(0)
    for site in (site for site in SITES if site.norm):
        name = f"{PREFIX}{site.norm}.weight"
        held = diagonal.fold_into_norm(tensors[name], qparams[smoothing_key(0, site.name)])
        torch.testing.assert_close(held.double(), tensors[name].double() * flat.transforms.scales[site.name], rtol=1e-6, atol=0)
    clips = [name for name in qparams if name.endswith("_clip")]
    assert len(clips) == 7 + 2
    assert all(torch.equal(qparams[name], qparams[name].bfloat16().float()) for name in clips)


def test_norms_and_biases_are_deployed_as_they_were_learned(learned):
    blocks, _, flat, qparams = learned
    others = {n: t for n, t in blocks.tensors(0).items() if f"{n.removesuffix('.weight')}.integers" not in qparams}
    assert len(others) >= 4
    changed = 0
    for name, tensor in others.items():
        assert torch.equal(deployed(name, tensor, qparams, QWEN2), flat.tensors[name].to(tensor.dtype))
        changed += not torch.equal(flat.tensors[name], tensor.float())
    assert changed == 2 + sum(name.endswith(("v_proj.bias", "up_proj.bias")) for name in others)


def test_gram_matrices_are_those_of_the_transformed_inputs(learned):
    _, _, flat, _ = learned
    for site in SITES:
        matrix, scale = dense(flat.transforms, site.name), flat.transforms.scales.get(site.name, 1)
        x = torch.randn(9, len(matrix), dtype=torch.float64)
        found, y = flat.transform_grams({site.name: x.T @ x})[site.name], (x * scale) @ matrix
        torch.testing.assert_close(found, y.T @ y)


@pytest.mark.parametrize(("symmetric", "ends"), [([True, True], 1), ([True, False], 2), ([None, True], 1), ([None, False], 2)])
def test_ends_of_a_range_are_learned_apart_where_any_reader_tells_them_apart(symmetric, ends):
    readers = [None if value is None else ActivationArgs(num_bits=4, symmetric=value) for value in symmetric]
    assert flat_block._ends(readers) == ends


def started(source, recipe, peaks):
    """The parameters before training."""
    blocks = Blocks(source, torch.device("cpu"), torch.float32)
    block = {name.removeprefix(PREFIX): tensor for name, tensor in blocks.tensors(0).items()}
    return block, flat_block.Learned(QWEN2, block, 32, peaks, recipe, 0, recipe.transform)


def test_scales_start_from_the_largest_weights_of_all_linears_that_read_a_site(model):
    peaks = {site.name: torch.full((256 if site.name == "down" else 128,), 2.0) for site in SITES}
    block, parameters = started(model, resolve({"preset": "flatquant-w4a4kv4"}), peaks)
    for site in (site for site in SITES if site.name != "o"):
        largest = torch.stack([block[f"{QWEN2.module_name(linear)}.weight"].abs().amax(0) for linear in site.linears]).amax(0)
        torch.testing.assert_close(parameters.values().scales[site.name], largest**0.7 / 2**0.3)


@pytest.mark.parametrize("parametrization", ["direct", "svd"])
def test_identity_is_exactly_that(parametrization, model):
    recipe = resolve({"preset": "flatquant-w4a4kv4", "transform": {"name": "flatquant", "parametrization": parametrization}})
    _, parameters = started(model, recipe, {site.name: torch.ones(256 if site.name == "down" else 128) for site in SITES})
    parameters.set_identity()
    values = parameters.values()
    assert all(torch.equal(m, torch.eye(m.shape[-1]).expand_as(m)) for m in values.matrices.values())
    for ones in (values.scales, values.input_clips, values.cache_clips, values.weight_clips):
        assert all((tensor == 1).all() for tensor in ones.values())
