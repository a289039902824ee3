import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
from ptqflow.artifacts import schemas
from ptqflow.artifacts.activations import read_absmax, read_activations, write_activations
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.tables import read_metadata, read_table, to_table, write_table
from ptqflow.devices.device import select
from ptqflow.errors import ArtifactError
from ptqflow.methods.layer import MEASURED_TOKENS, quantize_layer
from ptqflow.methods.rounding import Target
from ptqflow.methods.roundings import gptq
from ptqflow.modeling.anatomy import SITES
from ptqflow.modeling.blocks import Blocks, forward, watch_sites
from ptqflow.modeling.fake_quant import quantize_block
from ptqflow.modeling.qparams import deployed, transformed
from ptqflow.numerics.grid import dequantize_weight, fake_quantize
from ptqflow.numerics.products import float32_matmul
from ptqflow.presets import resolve
from ptqflow.recipes import Recipe
from safetensors.torch import load_file, save_file
from tiny_models import QWEN2, collect, export, fake_checkpoint, quantize, stage, tiny_model
from transformers import AutoModelForCausalLM

GPTQ4 = resolve({"preset": "gptq-w4a16"})
SMOOTH = resolve({"preset": "smoothquant-w8a8kv8"})
RTN = resolve({"preset": "rtn-w4a4kv4"})
AWQ = resolve({"preset": "awq-w3a16", "transform": {"name": "awq", "gqa_vo": True}, "clip": {"name": "search"}})


def logits(folder, tokens):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(tokens).logits


def test_statistics_and_boundary_states_are_those_of_the_whole_model(model, work):
    manifest = collect(model, work, chunks=2)
    full = AutoModelForCausalLM.from_pretrained(model).eval()
    tokens = torch.tensor(pq.read_table(work / "tokens.parquet").column("tokens").to_pylist())
    seen, cached = {}, {}
    with (
        watch_sites(full.model.layers[1], lambda site, x: seen.update({site: x.flatten(0, 1)})),
        torch.no_grad(),
        float32_matmul(),
    ):
        output = full(tokens, output_hidden_states=True, use_cache=True)
    cached = output.past_key_values.layers[1]
    seen |= {
        "k": cached.keys.transpose(1, 2).flatten(0, 1).flatten(1),
        "v": cached.values.transpose(1, 2).flatten(0, 1).flatten(1),
    }
    assert torch.equal(read_activations(manifest.parent / "chunk=0/activations.parquet"), output.hidden_states[0])
    assert torch.equal(read_activations(manifest.parent / "chunk=1/activations.parquet"), output.hidden_states[2])
    table = read_table(manifest.parent / "statistics.parquet", schemas.STATISTICS).to_pandas()
    for site, x in seen.items():
        rows = table[(table.layer == 1) & (table.site == site)].sort_values("channel")
        assert len(rows) == x.shape[1]
        for name, expected in [
            ("absmax", x.abs().amax(0)),
            ("mean_abs", x.abs().mean(0)),
            ("mean", x.mean(0)),
            ("second_moment", x.square().mean(0)),
        ]:
            torch.testing.assert_close(torch.tensor(rows[name].to_numpy()), expected, rtol=1e-4, atol=1e-5)
    assert sorted(Manifest.read(manifest).files) == [
        "chunk=0/activations.parquet",
        "chunk=1/activations.parquet",
        "statistics.parquet",
    ]


def test_collecting_into_fewer_chunks_leaves_no_old_chunk_behind(model, work):
    output = collect(model, work, chunks=3)
    options = ("--model", model / "manifest.json", "--tokens", work / "tokens.parquet", "--output", output)
    assert stage("collect", {"chunks": 1}, *options) == 0
    assert [path.name for path in output.parent.glob("chunk=*")] == ["chunk=0"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hidden_states_survive_the_disk_bit_for_bit(dtype, tmp_path):
    hidden = torch.randn(3, 5, 8).to(dtype)
    write_activations(tmp_path / "a.parquet", hidden, {})
    assert torch.equal(read_activations(tmp_path / "a.parquet"), hidden)
    assert torch.equal(read_activations(tmp_path / "a.parquet", enough=6), hidden[:2])
    assert torch.equal(read_activations(tmp_path / "a.parquet", enough=600), hidden)


def statistics_file(path, channels):
    rows = [
        {
            "layer": layer,
            "site": site,
            "channel": c,
            "absmax": 10 * layer + c + 1,
            "mean_abs": len(site),
            "mean": 0,
            "second_moment": 0,
        }
        for layer in (0, 3)
        for site in ("qkv", "o")
        for c in channels
    ]
    write_table(path, to_table(schemas.STATISTICS, rows), schemas.STATISTICS, {})
    return path


def test_statistics_are_read_by_layer_and_site(tmp_path):
    found = read_absmax(statistics_file(tmp_path / "s.parquet", range(4)))
    assert found.keys() == {0, 3}
    assert torch.equal(found[3]["o"], torch.tensor([31.0, 32, 33, 34]))
    assert torch.equal(found[0]["qkv"], torch.tensor([1.0, 2, 3, 4]))


def test_statistics_in_another_order_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="not in order"):
        read_absmax(statistics_file(tmp_path / "s.parquet", (0, 2, 1)))


WITHOUT_PANDAS = """
import sys
from pathlib import Path
import torch
from ptqflow.artifacts.activations import read_absmax, read_activations, write_activations
write_activations(sys.argv[2], torch.randn(2, 3, 4), {})
read_activations(sys.argv[2])
read_absmax(Path(sys.argv[1]))
assert "pandas" not in sys.modules
"""


def test_what_collect_leaves_is_read_and_written_without_pandas(tmp_path):
    arguments = [statistics_file(tmp_path / "s.parquet", range(4)), tmp_path / "a.parquet"]
    subprocess.run([sys.executable, "-c", WITHOUT_PANDAS, *arguments], check=True)


GPTAQ = GPTQ4.model_copy(update={"rounding": GPTQ4.rounding.model_copy(update={"asymmetric_calibration": True})})


@pytest.mark.parametrize("recipe", [GPTQ4, GPTAQ, SMOOTH, RTN, AWQ])
def test_one_chunk_equals_the_sequential_pipeline_bit_for_bit(recipe, model, calibration, work, request):
    (path,) = quantize(model, calibration, recipe, work / request.node.name)
    device = select("cpu")
    blocks = Blocks(model, device.torch_device, torch.float32)
    tokens = torch.tensor(pq.read_table(work / "tokens.parquet").column("tokens").to_pylist())
    statistics, hidden, expected = read_absmax(calibration.parent / "statistics.parquet"), blocks.embed(tokens), {}
    exact = hidden.clone() if recipe is GPTAQ else None
    for layer in range(3):
        expected |= quantize_layer(blocks, layer, hidden, statistics[layer], recipe, device, exact=exact)[0]
    found = load_file(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


SMOOTH_RTN = resolve({"preset": "smoothquant-w8a8kv8", "rounding": {"name": "rtn"}})


FLAT = resolve({"preset": "flatquant-w4a4kv4", "transform": {"name": "flatquant", "epochs": 1}})
STATIC = resolve({"preset": "rtn-w8a8-static-ascend"})


@pytest.mark.parametrize("recipe", [SMOOTH_RTN, RTN, STATIC, GPTQ4, GPTAQ, SMOOTH, AWQ, FLAT])
def test_integers_are_the_same_where_errors_are_not_measured(recipe, model, calibration, work, request):
    tables = []
    for measured in (True, False):
        (path,) = quantize(model, calibration, recipe, work / f"{request.node.name}-{measured}", layer_errors=measured)
        rows = read_table(path.with_name("diagnostics.parquet"), schemas.DIAGNOSTICS).to_pylist()
        tables.append((load_file(path), rows))
    (expected, plain), (found, quick) = tables
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [(row["module"], row["weight_error"]) for row in quick] == [(row["module"], row["weight_error"]) for row in plain]
    assert all(row["output_error"] is not None for row in plain)
    assert all(row["output_error"] is None and row["sampled_error"] is None for row in quick)


def test_where_errors_are_not_measured_tokens_are_enough_for_every_chunk(model, calibration, work):
    (whole,) = quantize(model, calibration, RTN, work / "whole")
    settings = {"recipe": RTN.dump(), "chunk": 1, "layers": [1, 3]}
    folder = work / "by-tokens"
    options = ("--model", model / "manifest.json", "--tokens", work / "tokens.parquet", "--losses", folder / "losses.parquet")
    options += ("--qparams", folder / "qparams.safetensors", "--diagnostics", folder / "diagnostics.parquet")
    assert stage("quantize", settings, *options) == 2
    assert stage("quantize", {**settings, "layer_errors": False}, *options) == 0
    expected = {name: tensor for name, tensor in load_file(whole).items() if ".layers.0." not in name}
    found = load_file(folder / "qparams.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert read_metadata(folder / "diagnostics.parquet")["settings"]["layer_errors"] is False


@pytest.mark.parametrize("scheme", ["weights", "everything"])
def test_gptq_takes_each_sites_inputs_from_the_quantized_linears_before_it(scheme, model, work):
    """The published procedure by hand: for every site, all samples anew through the block as far as it is quantized."""
    more = {"transform": {"name": "smoothquant", "sites": ["qkv", "o", "gate_up", "down"]}} if scheme == "everything" else {}
    inputs = {"input_activations": {"num_bits": 8}, "kv_cache": {"num_bits": 8}} if more else {}
    weights = {"num_bits": 3, "symmetric": False, "strategy": "group", "group_size": 32}
    recipe = Recipe.model_validate({"scheme": {"weights": weights, **inputs}, "rounding": {"name": "gptq"}, **more})
    device, blocks = select("cpu"), Blocks(model, torch.device("cpu"), torch.float32)
    hidden, positions = torch.randn(3, 24, 128), blocks.positions(24)
    absmax = {site: torch.rand(width) + 0.5 for site, width in {"qkv": 128, "o": 128, "gate_up": 128, "down": 256}.items()}
    left = hidden.clone()
    qparams, rows, _ = quantize_layer(blocks, 0, left, absmax, recipe, device)

    tensors = blocks.tensors(0)
    by_hand = {name: t for name, t in qparams.items() if name.endswith("smoothing_scale")}

    def block():
        quantized = blocks.build(0, {name: deployed(name, t, by_hand, QWEN2) for name, t in tensors.items()})
        quantize_block(quantized, recipe, 0)
        return quantized

    for site in SITES:
        seen = {}
        with watch_sites(quantized := block(), seen.__setitem__):
            forward(quantized, hidden, positions)
        x = seen[site.name].flatten(0, 1)
        names = [f"{QWEN2.linear_prefix(0, linear)}.weight" for linear in site.linears]
        floats = [transformed(name, tensors[name].float(), by_hand, QWEN2) for name in names]
        targets = [Target(weight, recipe.scheme.weights, recipe.clip_of("q_proj")) for weight in floats]
        for linear, rounded in zip(site.linears, gptq.round_weights(targets, x.T @ x, recipe.rounding), strict=True):
            for part in ("integers", "scale", "zero_point"):
                by_hand[f"{QWEN2.linear_prefix(0, linear)}.{part}"] = getattr(rounded, part)
    assert by_hand.keys() == qparams.keys()
    for name, tensor in by_hand.items():
        assert (tensor.float() - qparams[name].float()).abs().mean() < 1e-3, name  # Gram matrices are summed in another order
    torch.testing.assert_close(left, forward(block(), hidden, positions), rtol=1e-3, atol=1e-3)
    assert rows[-1]["output_error"] > 0


def from_tokens(model, work, folder, recipe, chunk=0, layers=(0, 3)):
    """Exit status and qparams of the stage without collect."""
    settings = {"recipe": recipe.dump(), "chunk": chunk, "layers": list(layers)}
    paths = {name: folder / f"{name}.out" for name in ("qparams", "diagnostics")}
    options = [option for name, path in paths.items() for option in (f"--{name}", path)]
    return stage("quantize", settings, "--model", model / "manifest.json", "--tokens", work / "tokens.parquet", *options), paths[
        "qparams"
    ]


@pytest.mark.parametrize("recipe", [GPTQ4, RTN, AWQ])
def test_tokens_serve_the_first_chunk_as_well_as_collect(recipe, model, calibration, work, tmp_path):
    status, path = from_tokens(model, work, tmp_path, recipe)
    assert status == 0
    expected, found = load_file(quantize(model, calibration, recipe, tmp_path / "collected")[0]), load_file(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("recipe", "chunk", "layers"), [(SMOOTH, 0, (0, 3)), (GPTQ4, 1, (2, 3))])
def test_tokens_alone_are_refused_where_more_is_needed(recipe, chunk, layers, model, calibration, work, tmp_path, capsys):
    status, path = from_tokens(model, work, tmp_path, recipe, chunk, layers)
    assert (status, path.exists()) == (2, False)
    assert "give --calibration" in capsys.readouterr().err


def test_equal_inputs_give_equal_bytes(model, calibration, work):
    first, second = (quantize(model, calibration, SMOOTH, work / name)[0] for name in ("once", "twice"))
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_mode == (first.parent / "diagnostics.parquet").stat().st_mode  # readable by whoever reads the rest


def test_a_chunk_does_not_depend_on_other_layers(model, work):
    calibration = collect(model, work, chunks=3)
    override = {"layers": [1], "weights": {"num_bits": 8, "strategy": "channel"}}
    changed = resolve({"preset": "gptq-w4a16", "overrides": [override]})
    plain_paths = quantize(model, calibration, GPTQ4, work / "plain", chunks=3)
    changed_paths = quantize(model, calibration, changed, work / "changed", chunks=3)
    same = [a.read_bytes() == b.read_bytes() for a, b in zip(plain_paths, changed_paths, strict=True)]
    assert same == [True, False, True]


@pytest.mark.parametrize("propagate", [True, False])
def test_diagnostics_are_the_errors_of_the_blocks_as_deployed(propagate, model, calibration, work, request):
    recipe = resolve({"preset": "rtn-w4a4kv4", "error_propagation": propagate})
    (path,) = quantize(model, calibration, recipe, work / request.node.name)
    rows = read_table(path.parent / "diagnostics.parquet", schemas.DIAGNOSTICS).to_pandas()
    assert len(rows) == 3 * 8
    blocks, qparams = Blocks(model, torch.device("cpu"), torch.float32), load_file(path)
    hidden = read_activations(calibration.parent / "chunk=0/activations.parquet")
    positions = blocks.positions(hidden.shape[1])
    for layer in range(2):
        tensors = blocks.tensors(layer)
        inputs = {}
        block = blocks.build(layer, tensors)
        with watch_sites(block, lambda site, x, inputs=inputs: inputs.update({site: x.flatten(0, 1)})):
            target = forward(block, hidden, positions)
        name = f"model.layers.{layer}.mlp.down_proj"
        weight = tensors[f"{name}.weight"]
        rounded = dequantize_weight(*(qparams[f"{name}.{part}"] for part in ("integers", "scale", "zero_point")))
        row = rows[(rows.layer == layer) & (rows.module == "down_proj")].iloc[0]
        exact, lost = inputs["down"] @ weight.T, inputs["down"] @ (weight - rounded).T
        assert row.output_error == pytest.approx((lost.square().sum() / exact.square().sum()).item(), rel=1e-3)
        assert row.output_mse == pytest.approx(lost.square().mean().item(), rel=1e-3)
        assert row.weight_error == pytest.approx(((weight - rounded).square().sum() / weight.square().sum()).item(), rel=1e-4)
        for linear in QWEN2.linears:
            key = QWEN2.linear_prefix(layer, linear)
            tensors[f"{key}.weight"] = dequantize_weight(*(qparams[f"{key}.{p}"] for p in ("integers", "scale", "zero_point")))
        quantized = blocks.build(layer, tensors)
        quantize_block(quantized, recipe, layer)
        given = {}
        with watch_sites(quantized, lambda site, x, given=given: given.update({site: x.flatten(0, 1)[:256]})):
            output = forward(quantized, hidden, positions)
        row = rows[(rows.layer == layer) & (rows.module == "down_proj")].iloc[0]
        exact, found = given["down"] @ weight.T, fake_quantize(given["down"], 4, False) @ tensors[f"{name}.weight"].T
        assert row.sampled_error == pytest.approx(((exact - found).square().sum() / exact.square().sum()).item(), rel=1e-3)
        assert row.sampled_error > row.output_error  # which knows nothing of quantized inputs
        row = rows[(rows.layer == layer) & (rows.module == "block")].iloc[0]
        assert row.output_error == pytest.approx(((output - target).norm() / (target - hidden).norm()).item() ** 2, rel=1e-3)
        assert row.output_mse == pytest.approx((output - target).square().mean().item(), rel=1e-3)
        hidden = output if propagate else target


def test_smoothing_helps_where_there_are_outliers(model, calibration, work):
    def block_errors(preset, name):
        (path,) = quantize(model, calibration, resolve({"preset": preset}), work / name)
        rows = read_table(path.parent / "diagnostics.parquet", schemas.DIAGNOSTICS).to_pandas()
        return rows[rows.module == "block"].output_error.mean()

    assert block_errors("smoothquant-w8a8", "smooth") < 0.7 * block_errors("rtn-w8a8", "plain8")


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize(("dtype", "shards"), [(torch.float32, False), (torch.bfloat16, True)])
def test_every_architecture_runs_from_collect_to_a_loadable_checkpoint(kind, dtype, shards, tmp_path):
    source = tiny_model(tmp_path / "m", kind, dtype, shards, outliers=False)
    folder = fake_checkpoint(source, SMOOTH, tmp_path, chunks=2)
    tokens = torch.randint(3, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    before, after = logits(source, tokens), logits(folder, tokens)
    assert ((after - before).norm() / before.norm()).item() < 0.1
    manifest = Manifest.read(folder / "manifest.json")
    manifest.verify(folder)
    assert manifest.origin["linear_weights"] == manifest.origin["packed_bytes"] - 2 * sum(
        t.shape[0]
        for path in sorted(tmp_path.glob("quantized/*/*.safetensors"))
        for n, t in load_file(path).items()
        if ".scale" in n
    )


def test_weight_only_checkpoint_is_stock_and_all_else_is_copied_bit_for_bit(work, tmp_path):
    source = tiny_model(tmp_path / "m", dtype=torch.bfloat16, shards=True)
    folder = fake_checkpoint(source, GPTQ4, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config == json.loads((source / "config.json").read_text())
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (folder / "generation_config.json").read_bytes() == (source / "generation_config.json").read_bytes()
    (path,) = tmp_path.glob("quantized/*/qparams.safetensors")
    qparams = load_file(path)
    for shard in source.glob("*.safetensors"):
        before, after = load_file(shard), load_file(folder / shard.name)
        assert before.keys() == after.keys()
        for name in before:
            if name.endswith("_proj.weight"):
                parts = (qparams[name.replace("weight", part)] for part in ("integers", "scale", "zero_point"))
                assert torch.equal(after[name], dequantize_weight(*parts).bfloat16())
            else:
                assert torch.equal(before[name], after[name])
    side = json.loads((folder / "ptqflow.json").read_text())
    assert Recipe.model_validate(side["settings"]["recipe"]) == GPTQ4


def test_overrides_leave_linears_in_high_precision(model, calibration, work):
    overrides = [{"linears": ["down_proj"], "weights": None, "input_activations": None}]
    recipe = resolve({"preset": "smoothquant-w8a8", "overrides": overrides})
    paths = quantize(model, calibration, recipe, work / "override")
    assert not [name for name in load_file(paths[0]) if "down_proj" in name]
    folder = export(model, paths, recipe, work / "override-checkpoint")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    kinds = {type(block.mlp.down_proj).__name__ for block in loaded.model.layers}
    assert kinds == {"Linear"}
    original = load_file(model / "model.safetensors")
    assert torch.equal(loaded.model.layers[0].mlp.down_proj.weight, original["model.layers.0.mlp.down_proj.weight"])


FLAT = {"preset": "flatquant-w4a4kv4", "transform": {"name": "flatquant", "epochs": 0}}


@pytest.mark.parametrize("entry", [{"preset": "awq-w4a16"}, {"preset": "gptq-w4a16", "error_propagation": False}, FLAT])
def test_a_block_left_in_high_precision_hands_on_the_float_states_of_every_sequence(entry, model):
    """Also of those beyond the sample (`MEASURED_TOKENS`) on which errors are measured."""
    recipe = resolve(entry | {"overrides": [{"layers": [0], "weights": None}]})
    blocks = Blocks(model, torch.device("cpu"), torch.float32)
    hidden = blocks.embed(torch.randint(3, 64, (3 * MEASURED_TOKENS // 100, 100)))
    expected = forward(blocks.build(0, blocks.tensors(0)), hidden, blocks.positions(100))
    peaks = {site.name: torch.ones(256 if site.name == "down" else 128) for site in SITES}
    with torch.no_grad():
        quantize_layer(blocks, 0, hidden, peaks, recipe, select("cpu"))
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-4)  # other batches, so other last digits


def test_cache_only_recipe_keeps_all_weights(model, calibration, work):
    recipe = Recipe.model_validate({"scheme": {"kv_cache": {"num_bits": 8}}})
    paths = quantize(model, calibration, recipe, work / "kv")
    folder = export(model, paths, recipe, work / "kv-checkpoint")
    before, after = load_file(model / "model.safetensors"), load_file(folder / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((folder / "config.json").read_text())["quantization_config"]["quant_method"] == "ptqflow"


def test_a_hessian_without_factor_is_a_recorded_fallback(model, calibration, work, monkeypatch):
    monkeypatch.setattr("ptqflow.methods.roundings.gptq.damped_cholesky", lambda *_: None)
    (path,) = quantize(model, calibration, GPTQ4, work / "fallback")
    rows = read_table(path.parent / "diagnostics.parquet", schemas.DIAGNOSTICS).to_pandas()
    linears = rows[rows.module != "block"]
    assert linears.fallback.str.startswith("rtn").all()
    assert linears.damping.isna().all()


def test_inputs_that_do_not_fit_are_refused_before_any_work(model, calibration, work, capsys, tmp_path):
    settings = {"recipe": GPTQ4.dump(), "chunk": 0, "layers": [0, 2]}
    outputs = ("--qparams", tmp_path / "q.safetensors", "--diagnostics", tmp_path / "d.parquet")
    inputs = ("--model", model / "manifest.json", "--calibration", calibration)
    assert stage("quantize", settings, *inputs, *outputs) == 2
    assert "holds layers [0, 3], not [0, 2]" in capsys.readouterr().err
    paths = quantize(model, calibration, GPTQ4, tmp_path)
    target = ("--output", tmp_path / "c/manifest.json")
    other = {"recipe": RTN.dump(), "form": "fake"}
    assert stage("export", other, "--model", model / "manifest.json", "--qparams", *paths, *target) == 2
    assert "was quantized by another recipe" in capsys.readouterr().err
    fake = {"recipe": GPTQ4.dump(), "form": "gguf"}
    assert stage("export", fake, "--model", model / "manifest.json", "--qparams", *paths, *target) == 2
    assert "form 'gguf' is unknown" in capsys.readouterr().err
    fine = {"recipe": GPTQ4.dump(), "form": "fake"}
    assert stage("export", fine, "--model", model / "manifest.json", "--qparams", paths[0], paths[0], *target) == 2
    over = ("--model", model / "manifest.json", "--qparams", *paths, "--output", model / "manifest.json")
    assert stage("export", fine, *over) == 2
    assert "would overwrite the float model" in capsys.readouterr().err


@pytest.mark.parametrize(("recipe", "named"), [(RTN, "float block 0"), (GPTQ4, "float block 0"), (AWQ, "awq")])
def test_states_that_overflow_are_refused_in_a_sentence(recipe, named, tmp_path, capsys):
    folder = tiny_model(tmp_path / "m", layers=1)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"] *= 1e38
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    Manifest.of_folder(folder, [path.name for path in folder.iterdir() if path.name != "manifest.json"], {}).write(folder)
    calibration = collect(folder, tmp_path)
    settings = {"recipe": recipe.dump(), "chunk": 0, "layers": [0, 1]}
    outputs = ("--qparams", tmp_path / "q.safetensors", "--diagnostics", tmp_path / "d.parquet")
    inputs = ("--model", folder / "manifest.json", "--calibration", calibration)
    assert stage("quantize", settings, *inputs, *outputs) == 2
    message = capsys.readouterr().err
    assert named in message
    assert "overflow" in message
    assert not (tmp_path / "q.safetensors").exists()


def test_corrupt_calibration_is_refused(model, tmp_path):
    calibration = collect(model, tmp_path)
    path = calibration.parent / "chunk=0/activations.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(AssertionError):
        quantize(model, calibration, RTN, tmp_path)
    with pytest.raises(ArtifactError, match="is not a file of hidden states"):
        read_activations(tmp_path / "tokens.parquet")
