"""Each architecture is walked, folded, quantized and stored as what stock transformers computes."""

import json
import re
from pathlib import Path

import pytest
import torch
from ptqflow.checkpoints import registry
from ptqflow.devices.device import select
from ptqflow.digest import closure
from ptqflow.errors import ConfigError
from ptqflow.methods.block import BlockInputs, BlockRounder
from ptqflow.modeling.anatomy import architecture, architecture_of, known, module_of, smoothing_key
from ptqflow.modeling.blocks import Blocks, forward, walk_sites, watch_sites
from ptqflow.modeling.dimensions import head_dim, linear_shapes, positions, queries_per_key
from ptqflow.modeling.qparams import deployed
from ptqflow.modeling.shapes import check_recipe
from ptqflow.presets import resolve
from ptqflow.recipes import Recipe
from ptqflow.transforms import diagonal
from safetensors.torch import load_file
from tiny_models import VOCABULARY, collect, export, quantize, stage, tiny_model
from transformers import AutoModelForCausalLM, DynamicCache

CPU = torch.device("cpu")
TOKENS = 24  # of a sequence, three windows
KINDS = {
    "mistral": {"sliding_window": 8},
    "mistral, no window": {"sliding_window": None},
    "qwen2, a window in the last block": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "phi3": {"sliding_window": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "gemma2": {"sliding_window": 8, "head_dim": 64, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.4},
}
NEW = ["mistral", "phi3", "gemma2"]
SCALED = Recipe.model_validate(
    {
        "scheme": {"input_activations": {"num_bits": 8}},
        "transform": {"name": "smoothquant", "sites": ["qkv", "o", "gate_up", "down"]},
    }
)


def made(folder, kind, layers=2, dtype=torch.float32, **more):
    """A tiny model of a kind, with hidden states that its soft caps and windows matter to."""
    return tiny_model(folder / "m", kind.split(",")[0], dtype, layers=layers, outliers=False, **KINDS[kind] | more)


def ids(rows=3):
    return torch.randint(3, VOCABULARY, (rows, TOKENS), generator=torch.Generator().manual_seed(1))


def stock(folder):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_site", [False, True])
def test_walked_blocks_give_stock_hidden_states_and_logits(kind, by_site, tmp_path):
    folder, tokens = made(tmp_path, kind), ids()
    model, blocks = stock(folder), Blocks(folder, CPU, torch.float32)
    with torch.no_grad():
        expected = model(tokens, output_hidden_states=True)
        hidden = blocks.embed(tokens)
        for layer in range(2):
            torch.testing.assert_close(hidden, expected.hidden_states[layer], rtol=1e-5, atol=2e-6)
            block, positions = blocks.build(layer, blocks.tensors(layer)), blocks.positions(TOKENS)
            if by_site:
                for _, inputs in walk_sites(block, hidden, positions):
                    list(inputs)
            else:
                hidden = forward(block, hidden, positions)
        logits = model.lm_head(model.model.norm(hidden))
        if (cap := getattr(model.config, "final_logit_softcapping", None)) is not None:
            logits = cap * torch.tanh(logits / cap)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": None}),
        ("phi3", {"sliding_window": None}),
        ("gemma2", {"sliding_window": 4096}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("qwen2, a window in the last block", {"use_sliding_window": False}),
    ],
)
def test_what_a_kind_has_of_its_own_matters_to_these_models(kind, changes, tmp_path):
    """Else the test above could not fail."""
    folder, tokens = made(tmp_path, kind), ids()
    with torch.no_grad():
        before = stock(folder)(tokens).logits
        config = json.loads((folder / "config.json").read_text()) | changes
        config.pop("layer_types", None) if "qwen2" in kind else None
        (folder / "config.json").write_text(json.dumps(config))
        assert (stock(folder)(tokens).logits - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scales_folded_at_every_site_preserve_the_block(kind, dtype, tmp_path):
    """`dtype`: of the norms, which cannot hold every scale; the arithmetic is float64."""
    found, blocks = architecture(kind), Blocks(made(tmp_path, kind, layers=1), CPU, torch.float64)
    norms = {site.norm for site in found.sites}
    stored = blocks.tensors(0)
    tensors = {n: t.to(dtype if n.split(".")[-2] in norms else torch.float64) for n, t in stored.items()}
    hidden, positions = torch.randn(2, TOKENS, 128, dtype=torch.float64), blocks.positions(TOKENS)
    widths = {}
    with watch_sites(block := blocks.build(0, tensors), lambda site, x: widths.update({site: x.shape[-1]})):
        before = forward(block, hidden, positions)
    generator = torch.Generator().manual_seed(0)
    absmax = {site: 10 ** (4 * torch.rand(width, generator=generator) - 2) for site, width in widths.items()}
    config = blocks.config.to_dict()
    inputs = BlockInputs({}, 1, absmax, absmax, head_dim(config), queries_per_key(config))
    scales = BlockRounder(found, 0, tensors, inputs, SCALED, select("cpu")).qparams
    assert sorted(scales) == sorted(smoothing_key(0, site.name) for site in found.sites)
    assert all(scale.max() / scale.min() > 100 for scale in scales.values())
    folded = {name: deployed(name, tensor, scales, found) for name, tensor in tensors.items()}
    changed = {name.split(".")[-2] for name in tensors if not torch.equal(folded[name], tensors[name])}
    assert changed == {*found.linears, *(norm for norm in norms if norm)}
    after = forward(blocks.build(0, folded), hidden, positions)
    assert ((after - before).norm() / (before - hidden).norm()).item() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_norm_of_one_plus_weight_holds_the_scale_that_is_taken(dtype):
    generator = torch.Generator().manual_seed(0)
    norm = torch.cat([torch.randn(500, generator=generator), torch.tensor([-1.0, -1.0, -0.9961, 3.0])]).to(dtype)
    wanted = 10 ** (8 * torch.rand(504, generator=generator) - 4)
    scale = diagonal.representable(wanted, norm, 1.0)
    folded = diagonal.fold_into_norm(norm, scale, 1.0)
    weight = norm.double() + 1
    assert (((folded.double() + 1) * scale.double() - weight).abs() <= 2e-7 * weight.abs()).all()
    assert ((folded.double() + 1 == 0) == (weight == 0)).all()
    assert (scale > 0).all()
    assert scale.isfinite().all()


def test_only_the_last_part_of_a_fused_linear_takes_the_scale_of_what_it_makes():
    weight = torch.randn(2 * 8 + 8 + 8, 4)
    scale = torch.rand(2, 2, 4)[:, :1].expand(2, 2, 4)  # 2 value heads of width 4, 2 queries to each
    folded = diagonal.fold_into_rows(weight, scale)
    assert torch.equal(folded[:24], weight[:24])
    torch.testing.assert_close(folded[24:] * scale[:, 0].flatten().unsqueeze(1), weight[24:])


W8A8 = {"weights": {"num_bits": 8, "strategy": "channel"}, "input_activations": {"num_bits": 8}}
W4 = {"weights": {"num_bits": 4, "strategy": "group", "group_size": 64}}
RECIPES = {
    "rtn": {"scheme": W8A8},
    "smoothquant": {"scheme": W8A8, "transform": {"name": "smoothquant", "sites": ["qkv", "o", "gate_up", "down"]}},
    "awq": {"scheme": W4, "transform": {"name": "awq", "gqa_vo": True}, "clip": {"name": "search"}},
    "gptq": {"scheme": W4, "rounding": {"name": "gptq"}},
}


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("name", RECIPES)
def test_a_quantized_checkpoint_runs_and_its_real_form_is_verified(kind, name, tmp_path):
    model, recipe, tokens = made(tmp_path, kind), Recipe.model_validate(RECIPES[name]), ids()
    qparams = quantize(model, collect(model, tmp_path), recipe, tmp_path / "q")
    fake, real = (export(model, qparams, recipe, tmp_path / form, form) for form in ("fake", "compressed-tensors"))
    for form, folder in (("fake", fake), ("compressed-tensors", real)):
        options = ["--model", model / "manifest.json", "--qparams", *qparams, "--fake", fake / "manifest.json"]
        options += ["--tokens", tmp_path / "tokens.parquet", "--checkpoint", folder / "manifest.json"]
        settings = {"recipe": recipe.dump(), "form": form}
        assert stage("verify", settings, *options, "--output", tmp_path / f"{form}.parquet") == 0
    with torch.no_grad():
        base = stock(model)(tokens).logits
        dense, packed = (AutoModelForCausalLM.from_pretrained(folder).eval()(tokens).logits for folder in (fake, real))
    lost, of_real = ((logits - base).norm() / base.norm() for logits in (dense, packed))
    assert 0 < lost < (0.4 if recipe.is_weight_only() else 0.05)  # 4-bit weights of random numbers lose about a quarter
    assert of_real < 1.5 * lost  # transformers' own scales of inputs differ from ours in the last bit of the grid
    if recipe.is_weight_only():
        torch.testing.assert_close(packed, dense, rtol=1e-4, atol=1e-4)
    names = {name.removesuffix(".weight_scale") for name in load_file(real / "model.safetensors") if "weight_scale" in name}
    assert names == {architecture(kind).linear_prefix(layer, x) for layer in range(2) for x in architecture(kind).linears}


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("form", ["autoawq", "gptq"])
def test_forms_of_packed_weights_hold_each_architecture(kind, form, tmp_path):
    symmetric = {"weights": W4["weights"] | {"symmetric": True}}
    model, recipe = made(tmp_path, kind), Recipe.model_validate({"scheme": symmetric})
    qparams = quantize(model, collect(model, tmp_path), recipe, tmp_path / "q")
    fake, real = (export(model, qparams, recipe, tmp_path / f, f) for f in ("fake", form))
    options = ["--model", model / "manifest.json", "--qparams", *qparams, "--fake", fake / "manifest.json"]
    options += ["--tokens", tmp_path / "tokens.parquet", "--checkpoint", real / "manifest.json"]
    settings = {"recipe": recipe.dump(), "form": form}
    assert stage("verify", settings, *options, "--output", tmp_path / "v.parquet") == 0


@pytest.mark.parametrize("kind", NEW)
def test_a_static_input_and_a_quantized_cache_run(kind, tmp_path):
    scheme = {
        "weights": {"num_bits": 8, "strategy": "channel"},
        "input_activations": {"num_bits": 8, "strategy": "tensor", "dynamic": False},
        "kv_cache": {"num_bits": 8, "dynamic": False},
    }
    model, recipe = made(tmp_path, kind), Recipe.model_validate({"scheme": scheme})
    folder = export(model, quantize(model, collect(model, tmp_path), recipe, tmp_path / "q"), recipe, tmp_path / "c")
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        base, quantized = stock(model)(ids()).logits, loaded(ids()).logits
        cache = DynamicCache(config=loaded.config)  # past the window, token by token, reads what the whole sequence reads
        steps = [loaded(part, past_key_values=cache).logits for part in (ids()[:, :5], *ids()[:, 5:].split(1, dim=1))]
    assert 0 < (quantized - base).norm() / base.norm() < 0.25
    agree = (torch.cat(steps, dim=1) - quantized).abs().amax(-1) < 1e-4
    assert agree.float().mean() > 0.6  # of tokens; a third is within the first window. The others crossed a rounding boundary.


CONFIGS = {
    "phi3": {"num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4},
    "gemma2": {"num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 8},
    "mistral": {"num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 8},
}


@pytest.mark.parametrize(
    ("kind", "entry", "message"),
    [
        ("phi3", {"preset": "flatquant-w4a4kv4"}, "flatquant takes no fused linears"),
        ("gemma2", {"preset": "flatquant-w4a4kv4"}, r"flatquant takes no norms of 1 \+ weight"),
        ("phi3", {"scheme": {"kv_cache": {"num_bits": 8, "keys": "pre_rope"}}}, "keys pre_rope: .* fused linear"),
        (
            "phi3",
            {"preset": "rtn-w8a8", "overrides": [{"linears": ["q_proj", "k_proj"], "weights": None}]},
            "overrides.linears q_proj, k_proj: model m holds q_proj, k_proj, v_proj as one qkv_proj",
        ),
    ],
)
def test_what_an_architecture_cannot_have_is_refused_by_key(kind, entry, message):
    with pytest.raises(ConfigError, match=message):
        check_recipe(resolve(entry), CONFIGS[kind] | {"model_type": kind}, "r", "m")


@pytest.mark.parametrize("kind", NEW)
def test_modelslim_refuses_what_was_not_tried(kind):
    reason = registry.refusal("modelslim", resolve({"preset": "rtn-w8a8"}), CONFIGS[kind] | {"model_type": kind})
    assert f"model_type {kind} was not tried" in reason


def test_overrides_of_all_parts_reach_the_fused_linear(tmp_path):
    keep = [{"layers": [1], "linears": ["gate_proj", "up_proj"], "weights": None, "input_activations": None}]
    model, recipe = made(tmp_path, "phi3"), Recipe.model_validate({"scheme": W8A8, "overrides": keep})
    qparams = load_file(quantize(model, collect(model, tmp_path), recipe, tmp_path / "q")[0])
    rounded = {name.removesuffix(".integers").split(".", 2)[2] for name in qparams if name.endswith(".integers")}
    names = {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"}
    assert rounded == {f"{layer}.{name}" for layer in range(2) for name in names} - {"1.mlp.gate_up_proj"}


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("mistral", "attention_bias", True),
        ("mistral", "layer_types", ["full_attention"]),
        ("gemma2", "use_bidirectional_attention", True),
        ("phi3", "full_attn_mod", 2),
        ("phi3", "mup_scale", 2.0),
        ("phi3", "num_local_experts", 8),
    ],
)
def test_a_key_that_nobody_understands_is_refused_by_name(kind, key, value):
    config = CONFIGS[kind] | {"model_type": kind}
    assert architecture_of(config | {key: None}) is architecture(kind)
    with pytest.raises(ConfigError, match=f"{key} is not understood for model_type {kind}"):
        architecture_of(config | {key: value})


@pytest.mark.parametrize("kind", known())
def test_what_a_stock_configuration_says_is_understood(kind):
    """Of the stock class with its defaults; and shapes that follow from keys left out are those of the stock block."""
    found = architecture(kind)
    config = found.class_of("Config")(num_hidden_layers=1, hidden_size=64, intermediate_size=96, vocab_size=32, pad_token_id=0)
    said = {key: value for key, value in config.to_dict().items() if key not in ("rope_parameters",)}
    assert architecture_of(said) is found
    with torch.device("meta"):
        block = found.class_of("DecoderLayer")(config, 0)
    short = {key: said[key] for key in ("model_type", "num_hidden_layers", "hidden_size", "intermediate_size")}
    short["num_attention_heads"] = config.num_attention_heads
    shapes = {linear: tuple(block.get_submodule(found.module_name(linear)).weight.shape) for linear in found.linears}
    assert linear_shapes(short) == shapes
    norms = {name for name, module in block.named_children() if "norm" in name}
    assert norms == {name for half in found.halves for name in (half.norm, half.after) if name}
    assert found.key_norm == hasattr(block.self_attn, "k_norm")


def test_sequences_beyond_the_models_positions_are_refused(tmp_path):
    blocks = Blocks(made(tmp_path, "mistral", max_position_embeddings=16), CPU, torch.float32)
    with pytest.raises(ConfigError, match="sequences of 24 tokens exceed the model's 16 positions"):
        blocks.embed(ids())


def test_tokens_beyond_the_embedding_are_refused(tmp_path):
    blocks = Blocks(made(tmp_path, "mistral"), CPU, torch.float32)
    with pytest.raises(ConfigError, match=f"token {VOCABULARY} is beyond the {VOCABULARY} rows"):
        blocks.embed(torch.full((1, 4), VOCABULARY))


def test_a_configuration_that_transformers_refuses_is_one_sentence(tmp_path):
    folder = made(tmp_path, "mistral")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}))
    with pytest.raises(ConfigError, match=r"config\.json is not what transformers takes"):
        Blocks(folder, CPU, torch.float32)


def test_jobs_of_a_model_reach_its_own_architecture_alone():
    stages = ("collect", "quantize", "export", "verify", "generate")
    for name in stages:
        reached = closure(f"ptqflow.stages.{name}", f"ptqflow.{module_of('phi3')}")
        assert {module for module in reached if ".architectures." in module} == {f"ptqflow.{module_of('phi3')}"}


def test_every_architecture_is_documented():
    text = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    assert all(re.search(rf"\b{kind}\b", text) for kind in known())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 40960}, 40960),
        ({"max_position_embeddings": 32768, "rope_scaling": {"type": "yarn", "factor": 4.0}}, 131072),
        (
            {
                "max_position_embeddings": 40960,
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"max_position_embeddings": 131072, "rope_scaling": None}, 131072),
        (
            {
                "max_position_embeddings": 4096,
                "rope_scaling": {"type": "yarn", "factor": None, "original_max_position_embeddings": None},
            },
            4096,
        ),
        ({}, None),
    ],
)
def test_positions_are_those_that_yarn_stretches_the_original_ones_to(config, expected):
    assert positions(config) == expected
