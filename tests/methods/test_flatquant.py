import json
import shutil
from contextlib import contextmanager

import pyarrow.parquet as pq
import pytest
import torch
from ptqflow.artifacts import schemas
from ptqflow.artifacts.activations import read_absmax, read_activations
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.tables import read_table
from ptqflow.console import warnings_of
from ptqflow.devices.device import Device, select
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.methods import flat_block
from ptqflow.methods.descent import Descent
from ptqflow.methods.layer import quantize_layer
from ptqflow.methods.learned import Task
from ptqflow.methods.rounding import Target, clip_rows, quantize_clipped
from ptqflow.methods.roundings import rtn
from ptqflow.methods.roundings.rtn_settings import RtnRounding
from ptqflow.methods.transforms import flatquant
from ptqflow.modeling import online
from ptqflow.modeling.blocks import Blocks, batches, forward
from ptqflow.modeling.fake_quant import FakeQuantLinear
from ptqflow.modeling.shapes import check_recipe
from ptqflow.numerics.grid import dequantize_weight
from ptqflow.numerics.inverse import inverse
from ptqflow.presets import resolve
from ptqflow.scheme import WeightArgs
from ptqflow.stages.rescue import outcome
from safetensors.torch import load_file, save_file
from tiny_models import QWEN2, collect, export, quantize, stage, tiny_model
from transformers import AutoModelForCausalLM

CPU = torch.device("cpu")
SHORT = {"name": "flatquant", "epochs": 3}


def recipe(epochs=3, **changes):
    return resolve({"preset": "flatquant-w4a4kv4", "transform": SHORT | {"epochs": epochs}, **changes})


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("flatquant")


@pytest.fixture(scope="module")
def model(work):
    return tiny_model(work / "model", layers=2)


@pytest.fixture(scope="module")
def calibration(model, work):
    return collect(model, work)


@pytest.fixture(scope="module")
def checkpoint(model, calibration, work):
    used = recipe(error_propagation=True, input_shards=2)
    return export(model, quantize(model, calibration, used, work / "quantized"), used, work / "checkpoint")


def learn(model, calibration, used, layer=0, **options):
    blocks = Blocks(model, CPU, torch.float32)
    hidden = read_activations(calibration.parent / "chunk=0/activations.parquet").float()
    block, positions = blocks.build(layer, blocks.tensors(layer)), blocks.positions(hidden.shape[1])
    targets = torch.cat([forward(block, hidden[part], positions) for part in batches(*hidden.shape[:2])])
    absmax = read_absmax(calibration.parent / "statistics.parquet")[layer]
    with torch.no_grad():
        return flatquant.learn(Task(blocks, layer, hidden, targets, absmax, select("cpu")), used, **options)


def test_steps_alone_are_computed_at_the_precision_that_is_asked_for(model, calibration, monkeypatch):
    at, seen = ["highest"], []

    @contextmanager
    def precision(_, asked):
        at.append(asked)
        yield
        at.pop()

    monkeypatch.setattr(Device, "matmul_precision", precision)
    errors = flatquant._Trainer._errors
    monkeypatch.setattr(
        flatquant._Trainer, "_errors", lambda *given: seen.append((torch.is_grad_enabled(), at[-1])) or errors(*given)
    )
    learn(model, calibration, resolve({"preset": "flatquant-w4a4kv4", "transform": SHORT | {"matmul_precision": "high"}}))
    assert set(seen) == {(True, "high"), (False, "highest")}


def values(flat, measure):
    return [row["value"] for row in flat.rows if row["measure"] == measure]


def test_held_out_sequences_are_measured_each_once_and_never_trained_on(model, calibration, monkeypatch):
    trained, measured, whole, errors = [], [], {}, flatquant._Trainer._errors

    def watched(self, state, indices):
        (measured if isinstance(indices, slice) else trained).append(indices)
        if isinstance(indices, slice) and indices.start == 9:
            whole.setdefault("first", errors(self, state, slice(9, 12)).mean().item())
        return errors(self, state, indices)

    monkeypatch.setattr(flatquant._Trainer, "_errors", watched)
    monkeypatch.setattr(flatquant, "batches", lambda sequences, tokens: batches(sequences, tokens, 2 * tokens))  # 2, then 1
    used = resolve({"preset": "flatquant-w4a4kv4", "transform": SHORT | {"epochs": 1, "held_out": 0.25}})
    flat = learn(model, calibration, used)
    assert sorted(index for indices in trained for index in indices) == list(range(9))
    assert measured == [slice(9, 11), slice(11, 12)] * 4  # plain rounding, before and after training, as deployed
    assert values(flat, "rtn_held_out_loss")[0] == pytest.approx(whole["first"])


def test_an_eighth_is_held_out_of_few_sequences_and_eight_of_many():
    transform = recipe().transform
    assert [transform.held_out_of(sequences) for sequences in (2, 3, 32, 64, 128, 512)] == [1, 1, 4, 8, 8, 8]
    most = transform.model_copy(update={"held_out": 0.9, "held_out_at_most": 100})
    assert [most.held_out_of(sequences) for sequences in (2, 32, 128)] == [1, 29, 100]


@pytest.mark.parametrize(("kind", "dtype"), [("qwen2", torch.float32), ("qwen3", torch.bfloat16), ("llama", torch.bfloat16)])
@pytest.mark.parametrize("shards", [1, 2])
def test_transforms_cancel_before_training_after_and_folded(kind, dtype, shards, tmp_path):
    source = tiny_model(tmp_path / "m", kind, dtype, layers=1)
    flat = learn(source, collect(source, tmp_path), recipe(1, input_shards=shards))
    assert [row["event"] for row in flat.rows if row["measure"] == "identity_error"] == [
        "before training",
        "after training",
        "folded",
    ]
    assert max(values(flat, "identity_error")) < 1e-10
    assert all(1 <= number < 10 for number in values(flat, "condition_number"))
    assert values(flat, "inverse_gradient_error")[0] < 1e-3
    assert flat.fallback is None


def test_transforms_cancel_in_a_block_with_biases_everywhere(tmp_path):
    shape = {"hidden_size": 160, "intermediate_size": 148, "num_attention_heads": 5, "num_key_value_heads": 5}
    tiny_model(tmp_path / "m", "llama", layers=1, **shape, attention_bias=True, mlp_bias=True)
    flat = learn(tmp_path / "m", collect(tmp_path / "m", tmp_path), recipe(1))
    assert max(values(flat, "identity_error")) < 1e-10
    assert flat.fallback is None


def test_training_beats_its_start_and_plain_rounding_where_there_are_outliers(model, calibration):
    used = resolve({"preset": "flatquant-w4a4kv4", "transform": SHORT | {"epochs": 16, "held_out": 0.5}})
    flat = learn(model, calibration, used)
    held_out, (rtn,), (deployed,) = (values(flat, f"{name}held_out_loss") for name in ("", "rtn_", "deployed_"))
    assert deployed < 0.95 * held_out[0]
    assert deployed < 0.3 * rtn
    assert len(values(flat, "loss")) == 16 * 2


def test_svd_parametrization_starts_at_the_same_rotations_and_stays_well_conditioned(model, calibration):
    direct, svd = (
        learn(model, calibration, resolve({"preset": "flatquant-w4a4kv4", "transform": SHORT | {"parametrization": name}}))
        for name in ("direct", "svd")
    )
    assert values(svd, "held_out_loss")[0] == pytest.approx(values(direct, "held_out_loss")[0], rel=1e-3)
    assert values(svd, "deployed_held_out_loss")[0] < values(svd, "held_out_loss")[0]
    assert max(values(svd, "identity_error")) < 1e-10
    assert max(values(svd, "condition_number")) < 10


def test_cayley_gives_rotations_and_the_bound_holds_for_any_parameters():
    matrix = flat_block.Svd(torch.eye(6).expand(2, 6, 6).clone())
    assert torch.equal(matrix(), torch.eye(6).expand(2, 6, 6))
    with torch.no_grad():
        for parameter in matrix.parameters():
            parameter.normal_(std=3.0)
    singular = torch.linalg.svdvals(matrix().double())
    assert singular.min() > 0.0099
    assert singular.max() < 101


def test_training_is_seeded(model, calibration):
    first, again, other = (
        learn(model, calibration, resolve({"preset": "flatquant-w4a4kv4", "transform": SHORT | {"epochs": 1, "seed": seed}}))
        for seed in (0, 0, 1)
    )
    assert first.rows == again.rows
    assert all(torch.equal(first.qparams[name], again.qparams[name]) for name in first.qparams)
    assert first.rows != other.rows


def detached(matrix):
    return inverse(matrix.detach())


def test_learning_under_a_switch_departs_by_no_more_than_the_switch_and_says_so(model, calibration):
    def learned(emulate, **changes):
        transform = SHORT | {"epochs": 1, "guarded": False, "learning_rate": 5e-3, "emulate": emulate, **changes}
        return learn(model, calibration, resolve({"preset": "flatquant-w4a4kv4", "transform": transform}))

    plain = learned(None)
    losses = torch.tensor(values(plain, "loss"))
    for name, least, most in (("E0", 1e-4, 1.0), ("E1", 0, 1e-2), ("E2", 0, 1e-2), ("E3", 1e-6, 1.0), ("E9", 1e-9, 1e-2)):
        flat = learned(name)
        departure = (torch.tensor(values(flat, "loss")) / losses - 1).abs()
        assert least <= departure.max() <= most, name
        assert departure[0] <= (0.05 if name == "E3" else 1e-5), name  # before any step, all but the rounding is alike
        assert any(row["event"] == f"emulated: {name}" for row in flat.rows)
        assert flat.tensors["model.layers.0.mlp.up_proj.weight"].dtype == torch.float32
        assert len({tensor.data_ptr() for tensor in flat.qparams.values()}) == len(flat.qparams)  # else no file can hold them
    assert values(learned("E0", parametrization="svd"), "loss") == values(learned(None, parametrization="svd"), "loss")


def test_an_inverse_that_loses_its_gradient_is_refused(model, calibration):
    with pytest.raises(ConfigError, match="gradient of the matrix inverse on cpu is off by"):
        learn(model, calibration, recipe(1), invert=detached)


def test_guards_hold_even_when_the_gradient_is_lost_unnoticed(model, calibration, monkeypatch):
    monkeypatch.setattr(flatquant, "gradient_error", lambda *arguments: 0.0)
    wild = resolve({"preset": "flatquant-w4a4kv4", "transform": SHORT | {"epochs": 6, "learning_rate": 0.3}})
    flat = learn(model, calibration, wild, invert=detached)
    held_out = values(flat, "held_out_loss")
    assert max(held_out) > 2 * min(held_out)  # it does go wrong
    assert any(row["event"] == "rollback" for row in flat.rows)
    assert values(flat, "deployed_held_out_loss")[0] <= 1.05 * held_out[0]


def test_a_block_that_ends_worse_than_plain_rounding_stays_plainly_rounded_and_says_so(model, calibration, monkeypatch):
    monkeypatch.setattr(flatquant._Trainer, "_identity_error", lambda self, transforms: 1.0)
    flat = learn(model, calibration, recipe(0))
    assert "identity error 1.0e+00" in flat.fallback
    assert flat.rows[-1]["event"] == "fallback"
    assert flat.rows[-1]["value"] == pytest.approx(values(flat, "rtn_held_out_loss")[0])
    stored = Blocks(model, CPU, torch.float32).tensors(0)
    assert all(torch.equal(flat.tensors[name], tensor) for name, tensor in stored.items())


def test_a_block_that_learned_nothing_better_than_plain_rounding_stays_plainly_rounded(model, calibration, monkeypatch):
    losses = iter([1.0, 2.0, 2.0, 3.0])  # plain rounding, the start, the best state and then plain rounding as deployed
    monkeypatch.setattr(flatquant._Trainer, "_held_out", lambda self, state: torch.tensor([next(losses)]))
    flat = learn(model, calibration, recipe(0))
    assert flat.fallback.startswith("no transform: held-out loss 2 (round to nearest 1)")
    assert (flat.rows[-1]["value"], flat.rows[-1]["event"]) == (3.0, "fallback")
    assert all(torch.equal(m, torch.eye(m.shape[-1]).double().expand_as(m)) for m in flat.transforms.matrices.values())


def test_a_block_that_adds_nothing_has_nothing_to_lose(tmp_path):
    """As in models that were made deeper by blocks whose outputs are zero."""
    model = tiny_model(tmp_path / "model", layers=1)
    tensors = load_file(model / "model.safetensors")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        tensors[f"model.layers.0.{name}.weight"].zero_()
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    Manifest.of_folder(model, [path.name for path in model.iterdir() if path.name != "manifest.json"], {}).write(model)
    flat = learn(model, collect(model, tmp_path), recipe(epochs=1))
    assert flat.fallback is None
    assert values(flat, "identity_error") == [0.0] * 3
    block = {"module": "block", "fallback": None, "seconds": 1.0, "warning": None}
    found = outcome(flat.rows, [block])
    assert (found.error, found.untrained) == (0.0, 0.0)


def test_a_block_of_which_nothing_is_quantized_learns_nothing_and_is_no_fallback(model, calibration, work):
    """Nor does it stand out for `rescue`."""
    left = {"layers": [1], "weights": None, "input_activations": None}
    used = recipe(overrides=[left], scheme={"kv_cache": None})
    flat = learn(model, calibration, used, layer=1)
    assert (flat.fallback, flat.warning, values(flat, "loss")) == (None, None, [])
    assert outcome(flat.rows, [{"module": "block", "fallback": None, "seconds": 1.0, "warning": None}]).error == 0.0
    stored = Blocks(model, CPU, torch.float32).tensors(1)
    assert all(torch.equal(flat.tensors[name], tensor) for name, tensor in stored.items())
    cached = recipe(epochs=1, overrides=[left])
    assert len(values(learn(model, calibration, cached, layer=1), "loss")) == 3


def test_learning_that_gains_nothing_is_warned_of_in_log_diagnostics_and_card(model, calibration, work, capsys):
    rates = {"learning_rate": 1e-12, "clip_learning_rate": 1e-12, "batch_size": 12}
    used = resolve({"preset": "flatquant-w4a4kv4", "transform": SHORT | {"epochs": 1} | rates})
    paths, log = quantize(model, calibration, used, work / "still"), work / "still/log"
    log.write_text(capsys.readouterr().err)
    said = "learning is not clearly better than the transforms it started from"
    assert warnings_of(log) == [f"quantize: warning: 2 of 16 linears and blocks: {said}"]
    assert "block 1: 1/1 steps" in log.read_text()
    rows = read_table(paths[0].parent / "diagnostics.parquet", schemas.DIAGNOSTICS).to_pylist()
    assert [row["warning"] for row in rows if row["module"] == "block"] == [said, said]
    card = export(model, paths, used, work / "still-checkpoint") / "README.md"
    assert f"A warning, in 2 places: {said}." in card.read_text()


def test_checkpoint_in_transformers_equals_the_quantize_stage(model, calibration, checkpoint, work):
    device, used = select("cpu"), recipe(error_propagation=True, input_shards=2)
    blocks = Blocks(model, CPU, torch.float32)
    tokens = torch.tensor(pq.read_table(work / "tokens.parquet").column("tokens").to_pylist())
    hidden, statistics = blocks.embed(tokens), read_absmax(calibration.parent / "statistics.parquet")
    with torch.no_grad():
        for layer in range(2):
            quantize_layer(blocks, layer, hidden, statistics[layer], used, device)
        loaded = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
        torch.testing.assert_close(loaded(tokens).logits, loaded.lm_head(loaded.model.norm(hidden)))
    held = {name for name, _ in online.parameters(loaded)}
    assert len(held) == 2 * (2 + 2 + 1 + 2 + 7 + 4)
    assert not torch.equal(loaded.model.layers[0].mlp.down_proj.left_trans[0], torch.eye(8))
    assert loaded.model.layers[1].mlp.down_proj.input_clip.shape == (2, 2)


def test_transforms_without_quantized_inputs_run_in_the_checkpoint_too(model, calibration, work):
    used = resolve({"scheme": {"weights": {"num_bits": 8, "strategy": "channel"}}, "transform": SHORT | {"epochs": 1}})
    folder = export(model, quantize(model, calibration, used, work / "weights"), used, work / "weights/checkpoint")
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert {name.rpartition(".")[2] for name, _ in online.parameters(loaded)} == {"left_trans", "right_trans"}
    tokens = torch.randint(3, 64, (2, 10))
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(model).eval()(tokens).logits
        lost = (loaded(tokens).logits - expected).square().mean().sqrt() / expected.std()
    assert lost < 0.15  # without its transforms the model loses everything


def test_decoding_with_a_cache_equals_a_full_forward_pass(checkpoint):
    loaded, tokens = AutoModelForCausalLM.from_pretrained(checkpoint).eval(), torch.randint(3, 64, (2, 10))
    with torch.no_grad():
        full, first = loaded(tokens).logits, loaded(tokens[:, :6], use_cache=True)
        cache, steps = first.past_key_values, [first.logits]
        steps += [loaded(tokens[:, i : i + 1], past_key_values=cache, use_cache=True).logits for i in range(6, 10)]
    torch.testing.assert_close(torch.cat(steps, 1), full, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_without_one_of_its_transforms_is_refused_by_name(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.self_attn.cache_transform.k_trans"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"holds no model\.layers\.1\.self_attn\.cache_transform\.k_trans"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_qparams_without_a_transform_are_refused_by_name(model):
    blocks = Blocks(model, CPU, torch.float32)
    block = blocks.build(0, blocks.tensors(0))
    online.declare(block, recipe(), ["o"], 0, quantize=False)
    with pytest.raises(ArtifactError, match=r"0\.self_attn\.o_proj\.left_trans: expected shape \[1, 4, 4\], found nothing"):
        online.load(block, 0, {})


@pytest.mark.parametrize(("inputs", "most"), [({"input_activations": None}, 0), ({}, 0.1)])
def test_layers_left_in_high_precision_compute_what_they_did(tmp_path, inputs, most):
    """To the bit where inputs are float, too; else inputs of 8 bits are transformed, and weights with them."""
    source = tiny_model(tmp_path / "m", dtype=torch.bfloat16, shards=True, layers=2)
    used = resolve(
        {
            "preset": "flatquant-w8a8kv8",
            "transform": SHORT | {"epochs": 0},
            "scheme": {"kv_cache": None},
            "overrides": [{"layers": "all", "linears": "all", "weights": None, **inputs}],
        }
    )
    folder = export(source, quantize(source, collect(source, tmp_path), used, tmp_path / "q"), used, tmp_path / "c")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    held = {name: file.name for file in folder.glob("*.safetensors") for name in load_file(file)}
    assert index == held
    tokens = torch.randint(3, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loaded = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).eval() for f in (source, folder))
        before, after = (each(tokens).logits for each in loaded)
    assert ((after - before).norm() / before.norm()).item() <= most


def ascend(epochs=2, **changes):
    transform = SHORT | {"epochs": epochs, "sites": ["qkv", "gate_up"]}
    return resolve({"preset": "flatquant-w4a4-ascend", "transform": transform, **changes})


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_sites_left_out_are_neither_transformed_nor_clipped(kind, tmp_path):
    source = tiny_model(tmp_path / "m", kind, torch.bfloat16, layers=1)
    flat = learn(source, collect(source, tmp_path), ascend())
    assert flat.fallback is None
    assert max(values(flat, "identity_error")) < 1e-10
    acting = {name.removeprefix("model.layers.0.") for name in online.names(flat.qparams)}
    norms = ("input_layernorm", "post_attention_layernorm")
    readers = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
    assert acting == {f"{norm}.{side}_trans" for norm in norms for side in ("left", "right")} | {
        f"{r}.input_clip" for r in readers
    }
    stored = Blocks(source, CPU, torch.bfloat16).tensors(0)
    for name in ("model.layers.0.self_attn.o_proj.weight", "model.layers.0.mlp.down_proj.weight"):
        assert torch.equal(flat.tensors[name], stored[name].float())


@pytest.mark.parametrize("bits", [4, 8])
def test_gradients_pass_through_quantized_inputs_of_sites_left_out(bits):
    """They are read by what is learned before them: the gradient is the straight-through one, as if they had ratios of 1."""
    torch.manual_seed(0)
    x, seen = torch.randn(3, 5, 12), []
    args = resolve({"preset": f"rtn-w{bits}a{bits}-ascend"}).input_activations(0, "o_proj")
    linear = FakeQuantLinear(torch.nn.Linear(12, 7), args, 2)
    weights = torch.randn(3, 5, 7)
    for clip in (None, torch.nn.Parameter(torch.ones(2, 2))):
        linear.input_clip = clip
        leaf = x.clone().requires_grad_()
        seen += torch.autograd.grad((linear(leaf) * weights).sum(), leaf)
    assert torch.equal(*seen)
    plain = weights @ linear.weight.detach()
    assert (seen[0] - plain).norm() < 0.3 * plain.norm()


def test_linears_of_a_site_that_quantize_symmetrically_share_one_learned_ratio(model, calibration):
    flat = learn(model, calibration, ascend())
    ratios = {name: flat.qparams[name] for name in flat.qparams if name.endswith("input_clip")}
    assert all(ratio.shape == (1, 2) and ratio[0, 0] == ratio[0, 1] for ratio in ratios.values())
    assert len({ratios[f"model.layers.0.self_attn.{x}_proj.input_clip"][0, 0].item() for x in "qkv"}) == 1
    stored = {
        name.removeprefix("model.layers.0."): tensor for name, tensor in Blocks(model, CPU, torch.float32).tensors(0).items()
    }
    absmax = read_absmax(calibration.parent / "statistics.parquet")[0]
    shared, apart = (flat_block.Learned(QWEN2, stored, 32, absmax, used, 0, used.transform) for used in (ascend(), recipe()))
    assert (shared.input_clips["qkv"].shape, apart.input_clips["qkv"].shape) == ((1, 1), (1, 2))


def test_matrices_are_rounded_first_and_inverted_after(tmp_path):
    source = tiny_model(tmp_path / "m", "qwen2", torch.bfloat16, layers=1)
    flat = learn(source, collect(source, tmp_path), ascend())
    left, right = (flat.qparams[f"model.layers.0.input_layernorm.{side}_trans"] for side in ("left", "right"))
    assert all(torch.equal(side, side.bfloat16().float()) for side in (left, right))
    dense = torch.kron(left[0].double(), right[0].double())
    name, scale = "model.layers.0.self_attn.q_proj.weight", flat.qparams["model.layers.0.qkv.smoothing_scale"].double()
    expected = (Blocks(source, CPU, torch.float32).tensors(0)[name].double() * scale) @ torch.linalg.inv(dense).T
    torch.testing.assert_close(flat.tensors[name].double(), expected, rtol=1e-5, atol=1e-6)


def test_layers_learn_by_their_own_overrides(model, calibration):
    changes = [{"layers": [1], "transform": {"epochs": 1, "learning_rate": 0.03}}, {"transform": {"clip_learning_rate": 0.03}}]
    used = recipe(2, overrides=changes)
    assert [used.transform_of(layer).epochs for layer in (0, 1)] == [2, 1]
    assert [used.transform_of(layer).matrix_learning_rate for layer in (0, 1)] == [0.01, 0.03]
    assert {used.transform_of(layer).clip_learning_rate for layer in (0, 1)} == {0.03}
    steps = [len(values(learn(model, calibration, used, layer), "loss")) for layer in (0, 1)]
    assert steps[0] == 2 * steps[1]
    assert [o.transform.get("epochs") for o in used.for_layers(range(1)).overrides] == [
        None
    ]  # layer 1's cannot rerun layer 0's chunk
    assert type(used).model_validate(used.dump()) == used


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"overrides": [{"linears": ["q_proj"], "transform": {"epochs": 1}}]}, "learned by layer"),
        ({"overrides": [{"transform": {"epochs": 1}}], "transform": {"name": "none"}}, "transform none learns nothing"),
    ],
)
def test_overrides_of_learning_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        resolve({"preset": "flatquant-w4a4kv4", **wrong})


def test_transforms_and_clips_learn_at_their_own_rates(model, calibration, monkeypatch):
    seen = {}

    def spy(groups, loss, held_out, weight_decay, max_gradient_norm, *rest):
        seen.update({group.learning_rate: len(group.parameters) for group in groups}, rest=(weight_decay, max_gradient_norm))
        return Descent(groups, loss, held_out, weight_decay, max_gradient_norm, *rest)

    monkeypatch.setattr(flatquant, "Descent", spy)
    own = {"learning_rate": 0.002, "clip_learning_rate": 0.03, "weight_decay": 0.1, "max_gradient_norm": 0.7}
    own |= {"scale_learning_rate": 0.01}
    learn(model, calibration, resolve({"preset": "flatquant-w4a4kv4", "transform": SHORT | {"epochs": 0} | own}))
    matrices, scales, clips = 2 * 3 + 1 + 2, 3, 4 + 2 + 7
    assert seen == {0.002: matrices, 0.01: scales, 0.03: clips, "rest": (0.1, 0.7)}


def test_scales_learn_as_matrices_do_unless_told_otherwise(model, calibration, monkeypatch):
    rates = []

    def spy(groups, *rest):
        rates.extend(group.learning_rate for group in groups)
        return Descent(groups, *rest)

    monkeypatch.setattr(flatquant, "Descent", spy)
    learn(
        model, calibration, resolve({"preset": "flatquant-w4a4kv4", "transform": SHORT | {"epochs": 0, "learning_rate": 0.002}})
    )
    assert rates == [0.002, 0.002, 0.05]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_chunks_gives_one_result(dtype, tmp_path):
    """Also where the CPU runs the float model in bfloat16, but learns in float32."""
    source, used, found = tiny_model(tmp_path / "m", dtype=dtype, layers=2), recipe(1), []
    for chunks in (1, 2):
        paths = quantize(source, collect(source, tmp_path, chunks), used, tmp_path / f"{chunks}", chunks)
        found.append({name: tensor for path in paths for name, tensor in load_file(path).items()})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("rounding", ["rtn", "gptq"])
def test_diagnostics_and_losses_are_written(rounding, model, calibration, work):
    used = recipe(1, rounding={"name": rounding})
    settings = {"recipe": used.dump(), "chunk": 0, "layers": [0, 2]}
    folder = work / rounding
    options = ("--model", model / "manifest.json", "--calibration", calibration, "--losses", folder / "losses.parquet")
    outputs = ("--qparams", folder / "q.safetensors", "--diagnostics", folder / "diagnostics.parquet")
    assert stage("quantize", settings, *options, *outputs) == 0
    losses = read_table(folder / "losses.parquet", schemas.LOSSES).to_pandas()
    assert set(losses.layer) == {0, 1}
    assert set(losses.measure) >= {"loss", "held_out_loss", "rtn_held_out_loss", "deployed_held_out_loss", "identity_error"}
    rows = read_table(folder / "diagnostics.parquet", schemas.DIAGNOSTICS).to_pandas()
    blocks = rows[rows.module == "block"]
    assert len(rows) == 16
    assert blocks.output_error.max() < 0.3
    assert blocks.fallback.isna().all()
    linears = rows[rows.module != "block"]
    assert linears.output_error.max() < 0.05


def test_weights_are_clipped_to_ratios_of_their_rows_extremes():
    weight = torch.tensor([[-4.0, 0.0, 2.0], [1.0, 2.0, 3.0]])
    clipped = clip_rows(weight, torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    assert clipped.tolist() == [[-2.0, 0.0, 1.0], [1.0, 1.5, 1.5]]


@pytest.mark.parametrize("convention", ["flatquant", "awq", "compressed-tensors"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("strategy", "shards"), [("channel", 1), ("channel", 2), ("tensor", 1), ("tensor", 2), ("group", 1)])
def test_clipped_weights_learn_on_the_grid_that_rounding_gives_them(strategy, shards, symmetric, convention):
    args = WeightArgs(num_bits=3, symmetric=symmetric, strategy=strategy, group_size=8 if strategy == "group" else None)
    args = args.model_copy(update={"convention": convention})
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    weight[1], weight[2, :8] = weight[1].abs(), 4.0  # one row above 0, one group beyond its row's clipped range
    ratios = torch.linspace(0.6, 0.95, 12).reshape(6, 2)
    target = Target(clip_rows(weight, ratios), args, None)
    (expected,) = rtn.round_weights([target], None, RtnRounding(), shards)
    found = quantize_clipped(weight.requires_grad_(), args, ratios.requires_grad_(), shards)
    assert torch.equal(found, dequantize_weight(expected.integers, expected.scale, expected.zero_point))
    gradients = torch.autograd.grad(found.square().sum(), (weight, ratios))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_scales_start_as_smoothquants_reciprocal():
    absmax, weight = torch.tensor([100.0, 1.0, 0.0]), torch.tensor([[0.5, -0.5, 0.25], [0.25, 1.0, 0.0]])
    scale = flat_block.initial_scale(absmax, weight, 0.3)
    torch.testing.assert_close(scale[:2], torch.tensor([0.5**0.7 / 100**0.3, 1.0]))
    assert torch.isfinite(scale).all()


def test_recipes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="flatquant learns its clips"):
        recipe(clip={"name": "mse"})
    config = {"model_type": "qwen2", "hidden_size": 2 * 257, "intermediate_size": 1024, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    with pytest.raises(ConfigError, match=r"transform flatquant: q_proj of model m .*514 channels split into 2 x 257"):
        check_recipe(recipe(), config, "'r'", "m")
