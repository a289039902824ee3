"""Asymmetric calibration: weights that make up for what the layers before have lost."""

import json
from pathlib import Path

import pytest
import torch
from ptqflow.devices.device import select
from ptqflow.methods import layer as layers
from ptqflow.methods.asymmetric import corrected_weights
from ptqflow.methods.layer import quantize_layer
from ptqflow.methods.roundings import gptq
from ptqflow.methods.roundings.gptq_settings import GptqRounding
from ptqflow.modeling.blocks import Blocks, forward
from ptqflow.numerics.grid import dequantize_weight
from ptqflow.presets import resolve
from ptqflow.scheme import WeightArgs
from rounding_helpers import round_one
from tiny_models import tiny_model
from transformers import AutoTokenizer

DEMO = Path(__file__).resolve().parents[2] / "resources/demo-model"
ASYMMETRIC = {"name": "gptq", "asymmetric_calibration": True}


def inputs(rows=300, width=48, seed=0):
    """A weight, the float model's inputs, correlated, and what quantized layers make of them."""
    random = torch.Generator().manual_seed(seed)
    exact = torch.randn(rows, width, generator=random) @ torch.randn(width, width, generator=random)
    lost = exact @ torch.randn(width, width, generator=random) * 0.03 + torch.randn(rows, width, generator=random) * 0.2
    return torch.randn(20, width, generator=random), exact, exact + lost


@pytest.mark.parametrize("ridge", [1e-4, 0.01, 1.0])
def test_corrected_weights_solve_the_ridge_regression_in_float64(ridge):
    weight, exact, x = inputs()
    (found,) = corrected_weights([weight], x.T @ x, x.T @ (exact - x), ridge)
    w, y, f = weight.double(), x.double(), exact.double()
    penalty = ridge * (y.T @ y).diagonal().mean().sqrt() ** 2
    # As least squares, without the normal equations: rows [X̂; sqrt(λ)] and targets [X W; sqrt(λ) W].
    rows = torch.cat([y, penalty.sqrt() * torch.eye(len(w.T), dtype=torch.float64)])
    targets = torch.cat([f @ w.T, penalty.sqrt() * w.T])
    torch.testing.assert_close(found.double(), torch.linalg.lstsq(rows, targets).solution.T, rtol=1e-3, atol=1e-3)


def test_equal_inputs_leave_weights_alone_and_weights_do_not_touch_each_other():
    weight, exact, x = inputs()
    (same,) = corrected_weights([weight], x.T @ x, torch.zeros(48, 48), 0.01)
    assert torch.equal(same, weight)
    cross = x.T @ (exact - x)
    parts = corrected_weights(weight.split([5, 15]), x.T @ x, cross, 0.01)
    (whole,) = corrected_weights([weight], x.T @ x, cross, 0.01)
    torch.testing.assert_close(torch.cat(parts), whole)


def test_the_matrix_of_the_inputs_is_not_used_up_and_what_cannot_be_factored_is_said():
    weight, exact, x = inputs()
    gram = x.T @ x
    before = gram.clone()
    assert corrected_weights([weight], gram, x.T @ (exact - x), 0.01) is not None
    assert torch.equal(gram, before)
    assert corrected_weights([weight], gram * float("nan"), gram, 0.01) is None


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rounding_the_corrected_weight_comes_nearer_to_the_float_output(bits, seed):
    weight, exact, x = inputs(seed=seed)
    args, settings = WeightArgs(num_bits=bits, symmetric=False, strategy="group", group_size=16), GptqRounding(name="gptq")
    gram, target = x.T @ x, exact @ weight.T
    (corrected,) = corrected_weights([weight], gram, x.T @ (exact - x), 0.01)

    def lost(of):
        rounded = round_one(gptq, of, gram, args, None, settings)
        return (x @ dequantize_weight(rounded.integers, rounded.scale, rounded.zero_point).T - target).square().sum()

    assert lost(corrected) < 0.8 * lost(weight)


def test_few_tokens_are_trusted_less():
    settings = GptqRounding.model_validate(ASYMMETRIC)
    assert [settings.ridge_at(t) for t in (2.0, 64.0)] == [0.5, 1 / 64]
    assert GptqRounding.model_validate({**ASYMMETRIC, "ridge": 0.1}).ridge_at(2.0) == 0.1
    assert not GptqRounding(name="gptq").asymmetric


@pytest.mark.parametrize(
    "entry",
    [
        {"preset": "gptq-w4a16", "error_propagation": False, "rounding": ASYMMETRIC},
        {"preset": "flatquant-w4a4kv4", "rounding": ASYMMETRIC},
        {"preset": "gptq-w4a16", "rounding": {"ridge": 0.1}},
    ],
)
def test_what_there_is_nothing_to_make_up_for_with_is_refused(entry):
    with pytest.raises(ValueError, match="asymmetric_calibration"):
        resolve(entry)


@pytest.fixture
def blocks():
    return Blocks(DEMO, torch.device("cpu"), torch.float32)


@pytest.fixture
def states(blocks):
    """Of text that the model was made for."""
    rows = (DEMO.parent / "calibration/traces.jsonl").read_text().splitlines()[:64]
    text = "\n".join(row["prompt"] + row["completion"] for row in map(json.loads, rows))
    ids = AutoTokenizer.from_pretrained(DEMO)(text)["input_ids"][: 48 * 64]
    return blocks.embed(torch.tensor(ids).view(48, 64))


def test_two_blocks_lose_less_on_held_out_states_and_float_states_go_on_as_they_do_alone(blocks, states):
    """`exact` after a block is the float block's output, and the errors of the first block reach the second."""
    found, device = {}, select("cpu")
    for name in (False, True):
        recipe = resolve({"preset": "gptq-w3a16", "rounding": {"asymmetric_calibration": name}})
        hidden, exact, held_out = states[:32].clone(), states[:32].clone(), states[32:].clone()
        target = states[32:].clone()
        for index in range(2):
            before = exact.clone()
            with torch.no_grad(), device.true_float32():
                qparams, rows, _ = quantize_layer(blocks, index, hidden, {}, recipe, device, exact=exact if name else None)
                block = blocks.build(index, blocks.tensors(index))
                target = forward(block, target, blocks.positions(64))
                if name:  # where the CPU has bfloat16 products, in bfloat16
                    stored = list(blocks.tensors(index).values())
                    alone = blocks.build(index, blocks.tensors(index), device.parameter_dtype(stored))
                    with device.forward_precision(stored):
                        torch.testing.assert_close(exact, forward(alone, before, blocks.positions(64)))
                weights = {n: layers.deployed(n, t, qparams, blocks.architecture) for n, t in blocks.tensors(index).items()}
                held_out = forward(blocks.build(index, weights), held_out, blocks.positions(64))
            assert all(row["fallback"] is None for row in rows)
        found[name] = (held_out - target).square().mean().item()
    assert found[True] < 0.9 * found[False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scalings_leave_the_float_states_that_go_on_alone(dtype, tmp_path):
    """What is folded into weights and rounded to their dtype would be another float model, block after block."""
    blocks, device = Blocks(tiny_model(tmp_path / "m", dtype=dtype), torch.device("cpu"), torch.float32), select("cpu")
    recipe = resolve({"preset": "awq-gptaq-w4a16", "transform": {"name": "awq", "gqa_vo": True}})
    hidden = blocks.embed(torch.randint(3, 64, (8, 24), generator=torch.Generator().manual_seed(0)))
    tensors, exact = blocks.tensors(0), hidden.clone()
    with torch.no_grad(), device.forward_precision(tensors.values()):
        block = blocks.build(0, tensors, device.parameter_dtype(tensors.values()))
        target = forward(block, hidden, blocks.positions(24))
    with torch.no_grad():
        qparams, _, _ = quantize_layer(blocks, 0, hidden, {}, recipe, device, exact=exact)
    assert sum(name.endswith("smoothing_scale") for name in qparams) == 4
    torch.testing.assert_close(exact, target)


def test_the_dump_of_a_recipe_reads_back():
    recipe = resolve({"preset": "gptq-w4a16", "rounding": {**ASYMMETRIC, "ridge": 0.25}})
    assert type(recipe).model_validate(json.loads(json.dumps(recipe.dump()))) == recipe
    assert recipe.rounding.asymmetric
