"""Tokens of q, k and v weighted by the attention that they receive: transformers' own attention, and nearer blocks."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from ptqflow.devices.device import Device, select
from ptqflow.methods.layer import quantize_layer
from ptqflow.methods.running import Running
from ptqflow.modeling import causal
from ptqflow.modeling.blocks import Blocks, forward
from ptqflow.modeling.qparams import deployed
from ptqflow.presets import resolve
from tiny_models import tiny_model
from transformers import AutoModelForCausalLM

DEMO = Path(__file__).resolve().parents[2] / "resources/demo-model"
ATTENTION = {"rounding": {"token_weights": "attention"}}


def running(blocks, layer, entry, tokens, choosing):
    return Running(blocks, layer, resolve(entry), select("cpu"), blocks.tensors(layer), [], tokens, choosing)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("mistral", {"sliding_window": 40}),
        ("gemma2", {"sliding_window": 40, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 32}),
    ],
)
def test_attention_received_is_that_of_transformers(tmp_path, kind, more):
    folder = tiny_model(tmp_path, kind, outliers=False, **more)
    tokens = torch.randint(3, 64, (3, 150), generator=torch.Generator().manual_seed(0))
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        found = model(tokens, output_attentions=True, output_hidden_states=True)
    blocks = Blocks(folder, torch.device("cpu"), torch.float32)
    for layer in (0, 1):
        run = running(blocks, layer, {"preset": "gptq-w4a16"}, 150, 3)
        block = blocks.build(layer, run.tensors)
        received = run.attention_received(block, found.hidden_states[layer])
        expected = found.attentions[layer].sum((1, 2))
        torch.testing.assert_close(received, expected / expected.mean(), rtol=1e-4, atol=1e-5)
        after = forward(block, found.hidden_states[layer], blocks.positions(150))  # nothing watches any more
        torch.testing.assert_close(after, found.hidden_states[layer + 1], rtol=1e-3, atol=1e-4)


def test_one_token_receives_all_of_its_own_attention():
    assert torch.equal(causal.received(torch.randn(2, 4, 1, 8), torch.randn(2, 2, 1, 8), None, 1.0), torch.full((2, 1), 4.0))


@pytest.mark.parametrize(
    ("dtype", "weighted", "asymmetric", "asked"),
    [
        (torch.bfloat16, False, False, [True]),
        (torch.float32, False, False, [False]),
        (torch.bfloat16, True, False, [False]),
        (torch.bfloat16, False, True, [True, False]),
    ],
)
def test_inputs_that_bfloat16_holds_and_nothing_else_are_said_to_be_such(
    dtype, weighted, asymmetric, asked, tmp_path, monkeypatch
):
    """Units for TF32 would round what a weight has scaled, and the difference from the float model's inputs."""
    said = []
    monkeypatch.setattr(Device, "gram_precision", lambda _, of_bfloat16: said.append(of_bfloat16) or nullcontext())
    blocks = Blocks(tiny_model(tmp_path), torch.device("cpu"), torch.float32)
    run = running(blocks, 0, {"preset": "gptq-w4a16", "rounding": {"token_weights": "attention"} if weighted else {}}, 6, 3)
    x = torch.randn(3, 6, 8).to(dtype)
    run.grams([x], [x + 1] if asymmetric else None, torch.ones(3, 6) if weighted else None)
    assert said == asked


@pytest.mark.parametrize("of", ["equal", "attention"])
def test_tokens_count_by_the_attention_they_receive_where_a_clip_is_chosen_and_in_all_if_rounding_weighs(tmp_path, of):
    blocks = Blocks(tiny_model(tmp_path), torch.device("cpu"), torch.float32)
    run = running(blocks, 0, {"preset": "gptq-w4a16", "rounding": {"token_weights": of}}, 6, 3)
    x, exact, attended = torch.randn(4, 6, 8), torch.randn(4, 6, 8), torch.rand(4, 6)
    gram, cross, held_out = run.grams(x.split(2), exact.split(2), attended)

    def weighted(sequences, right, weights):
        rows = x[sequences].double() * weights[sequences].double().unsqueeze(-1)
        return torch.einsum("stc,std->cd", rows, right[sequences].double()).float()

    weights, every, late = attended if of == "attention" else torch.ones(4, 6), slice(None), slice(3, None)
    torch.testing.assert_close(gram, weighted(every, x, weights), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cross, weighted(every, exact - x, weights), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(held_out.gram, weighted(late, x, weights), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(held_out.judge, weighted(late, x, attended), rtol=1e-4, atol=1e-4)
    assert (held_out.attended is None) == (of == "attention")
    assert run.grams(x.split(2), None)[2].attended is None


def sink_states(blocks, sequences=24, tokens=64):
    """States of which the first token of each sequence, the same in all, has an outlier, as attention sinks do."""
    states = blocks.embed(torch.randint(3, 64, (sequences, tokens), generator=torch.Generator().manual_seed(0)))
    states[:, 0] = states[0, 0]
    states[:, 0, 3] = 40 * states.abs().mean()
    return states


@pytest.mark.parametrize("more", [{}, {"asymmetric_calibration": True}])
def test_the_site_that_attends_is_rounded_otherwise_and_the_rest_of_the_block_by_what_that_makes(tmp_path, more):
    blocks = Blocks(tiny_model(tmp_path, "llama", outliers=False), torch.device("cpu"), torch.float32)
    states, found = sink_states(blocks), {}
    for name in ("equal", "attention"):
        rounding = {"token_weights": name, **more}
        recipe = resolve({"preset": "gptq-w3a16", "scheme": {"weights": {"group_size": 32}}, "rounding": rounding})
        beside = states.clone() if more.get("asymmetric_calibration") else None
        with torch.no_grad():
            found[name], rows, _ = quantize_layer(blocks, 0, states.clone(), {}, recipe, select("cpu"), exact=beside)
        assert all(row["fallback"] is None for row in rows)
    for linear in ("q_proj", "k_proj", "v_proj"):
        name = f"model.layers.0.self_attn.{linear}.integers"
        assert not torch.equal(found["equal"][name], found["attention"][name])


def test_a_token_that_all_attend_to_comes_nearer(tmp_path):
    """Keys and values of a sink, which one token in 64 is: its error reaches all of them."""
    blocks = Blocks(tiny_model(tmp_path, "llama", outliers=False), torch.device("cpu"), torch.float32)
    states, error = sink_states(blocks), {}
    for name in ("equal", "attention"):
        scheme = {"weights": {"group_size": 32}}
        recipe = resolve({"preset": "gptq-w3a16", "scheme": scheme, "rounding": {"token_weights": name}})
        with torch.no_grad():
            qparams, _, _ = quantize_layer(blocks, 0, states.clone(), {}, recipe, select("cpu"), last=True)
        tensors = blocks.tensors(0)
        block = blocks.build(0, tensors)
        x = block.input_layernorm(states[:, :1])
        value = "model.layers.0.self_attn.v_proj.weight"
        change = deployed(value, tensors[value], qparams, blocks.architecture) - tensors[value]
        error[name] = (x @ change.T).square().sum().item()
    assert error["attention"] < 0.8 * error["equal"]


@pytest.mark.parametrize("preset", ["gptq-w3a16", "rtn-w3a16"])
def test_a_clip_of_q_k_v_is_chosen_by_the_attention_that_tokens_receive(tmp_path, preset):
    """Whether sites are rounded one after the other or all at once."""
    blocks = Blocks(tiny_model(tmp_path, "llama", outliers=False), torch.device("cpu"), torch.float32)
    states, tensors = sink_states(blocks), blocks.tensors(0)

    def by(clip, hidden):
        recipe = resolve({"preset": preset, "scheme": {"weights": {"group_size": 32}}, "clip": clip})
        return quantize_layer(blocks, 0, hidden.clone(), {}, recipe, select("cpu"), last=True)[:2]

    with torch.no_grad():
        _, rows = by({"name": "auto", "by": "linear"}, states)
        unclipped, _ = by({"name": "none"}, states[:12])
        received = running(blocks, 0, {"preset": preset}, 64, 24).attention_received(blocks.build(0, tensors), states)[12:]
        x = blocks.build(0, tensors).input_layernorm(states[12:])
        for row in rows[:3]:
            name = f"model.layers.0.self_attn.{row['module']}.weight"
            change = deployed(name, tensors[name], unclipped, blocks.architecture) - tensors[name]
            lost, made = ((received.unsqueeze(-1) * (x @ of.T).square()).sum().item() for of in (change, tensors[name]))
            assert json.loads(row["clip_errors"])["none"] == pytest.approx(lost / made, rel=1e-3)


@pytest.mark.parametrize("entry", [{"preset": "gptq-w4a16", "error_propagation": False}, {"preset": "flatquant-w4a4kv4"}])
def test_a_recipe_that_never_runs_a_block_while_it_rounds_is_refused(entry):
    with pytest.raises(ValueError, match="token_weights: attention looks at"):
        resolve({**entry, "rounding": {"name": "gptq", "token_weights": "attention"}})
