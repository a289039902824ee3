"""Which recipes a form can hold: decided before any job, and said with the reason and the remedy."""

import ast
import re
import shlex
import subprocess
import sys

import pytest
from checkout import SMALL_STUDY
from ptqflow.checked import load
from ptqflow.checkpoints import registry
from ptqflow.checkpoints.schemes import check
from ptqflow.entries import Suite
from ptqflow.errors import ConfigError
from ptqflow.presets import resolve
from ptqflow.study import config_of
from ptqflow.table_jobs import unserved

CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "model_type": "qwen2",
}
GROUP = {"num_bits": 4, "strategy": "group", "group_size": 32}
ROW = {"num_bits": 8, "strategy": "channel"}


def recipe(weights=None, inputs=None, cache=None, **more):
    scheme = {"weights": weights, "input_activations": inputs, "kv_cache": cache}
    return resolve({"scheme": {key: value for key, value in scheme.items() if value}, **more})


REFUSED = [
    (
        "compressed-tensors",
        resolve({"preset": "flatquant-w8a8kv8"}),
        "transform flatquant acts while the model runs.* evaluate form fake",
    ),
    (
        "compressed-tensors",
        resolve({"preset": "smoothquant-w8a8kv8"}),
        "vLLM refuses checkpoints with an integer KV cache; .* --kv-cache-dtype int8_per_token_head",
    ),
    (
        "compressed-tensors",
        recipe(GROUP, {"num_bits": 8, "strategy": "tensor", "dynamic": False}),
        "static inputs only beside symmetric weights of 8 bits by row, not for W4A8 group .*dynamic: true",
    ),
    ("compressed-tensors", recipe(ROW, cache={"num_bits": 4}), "--kv-cache-dtype int4_per_token_head"),
    ("compressed-tensors", recipe(ROW, cache={"num_bits": 3}), "vLLM has no 3-bit KV cache"),
    ("compressed-tensors", recipe(ROW, cache={"num_bits": 8, "value_bits": 4}), "one dtype, not in 8 and 4 bits"),
    ("compressed-tensors", recipe(inputs={"num_bits": 8}), "it quantizes no weights.*; give the recipe scheme.weights"),
    (
        "compressed-tensors",
        recipe(ROW, {"num_bits": 8}, overrides=[{"layers": [1], "linears": ["down_proj"], "weights": None}]),
        "down_proj of layer 1 quantizes its input but not its weight.*input_activations: null",
    ),
    (
        "compressed-tensors",
        recipe(GROUP, overrides=[{"layers": [1], "linears": ["k_proj"], "weights": {**GROUP, "group_size": 64}}]),
        "q_proj and k_proj of layer 1 are quantized differently, but engines fuse them",
    ),
    (
        "compressed-tensors",
        recipe(ROW, {"num_bits": 8}, input_shards=2),
        "o_proj .* not 2 shards; use input_shards 1",
    ),
    ("compressed-tensors", recipe(ROW, {"num_bits": 6}), "4 or 8 bits, not 6"),
    (
        "compressed-tensors",
        recipe({**ROW, "num_bits": 4}, {"num_bits": 4, "symmetric": False}),
        "not for W4A4 channel .*; use input_activations.symmetric: true",
    ),
    ("compressed-tensors", recipe({**ROW, "symmetric": False}, {"num_bits": 8, "symmetric": False}), "asymmetric W8A8"),
    ("autoawq", resolve({"preset": "flatquant-w4a4kv4"}), "transform flatquant"),
    ("autoawq", resolve({"preset": "rtn-w8a8"}), "AutoAWQ checkpoints quantize weights only; use form compressed-tensors"),
    ("autoawq", recipe({**GROUP, "num_bits": 3}), "AutoAWQ holds 4 bits, not 3"),
    ("autoawq", recipe({**ROW, "num_bits": 4}), "scales per group, not per row"),
    (
        "autoawq",
        recipe(GROUP, overrides=[{"layers": [1], "linears": ["down_proj"], "weights": {**GROUP, "group_size": 64}}]),
        "one setting for the whole model, but q_proj of layer 0 and down_proj of layer 1 differ",
    ),
    ("gptq", recipe({**GROUP, "num_bits": 5}), "GPTQ holds 2 or 3 or 4 or 8 bits, not 5"),
    ("gptq", resolve({"preset": "smoothquant-w8a8"}), "GPTQ checkpoints quantize weights only"),
]


@pytest.mark.parametrize(("form", "refused", "message"), REFUSED)
@pytest.mark.parametrize("config", [CONFIG, None], ids=["model", "model-not-fetched"])
def test_a_form_refuses_what_its_engines_cannot_serve_with_reason_and_remedy(form, refused, message, config):
    reason = registry.refusal(form, refused, config)
    with pytest.raises(ConfigError, match=f"recipe 'x' cannot be written in form {form}: .*{message}.*"):
        check(form, reason, "x")
    assert "; " in reason


@pytest.mark.parametrize("form", ["autoawq", "gptq"])
def test_shapes_that_words_do_not_divide_are_refused(form):
    config = {**CONFIG, "hidden_size": 100, "num_attention_heads": 25, "num_key_value_heads": 25, "intermediate_size": 132}
    reason = registry.refusal(form, recipe({**GROUP, "group_size": 4}), config)
    assert "words hold" in reason
    assert "use form compressed-tensors" in reason


def exports(forms, **more):
    found = load({**SMALL_STUDY, "forms": forms, **more}).checkpoints(None)
    return [f"{recipe}/{form}" for recipe, form in found if form != "fake"]


def test_forms_name_recipes_by_all_servable_or_list():
    assert exports(["fake"]) == []
    assert exports(["compressed-tensors"]) == ["rounded/compressed-tensors", "second-order/compressed-tensors"]
    assert exports({"compressed-tensors": "all", "autoawq": "servable"}) == [
        "rounded/compressed-tensors",
        "second-order/compressed-tensors",
        "second-order/autoawq",
    ]
    assert exports({"fake": "all", "gptq": ["second-order"]}) == ["second-order/gptq"]
    assert exports({"gptq": ["second-order"]}, run=["rounded"]) == []


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        (["autoawq"], "forms: recipe 'rounded' cannot be written in form autoawq: AutoAWQ checkpoints quantize weights only"),
        ({"gptq": ["rounded"]}, "forms: recipe 'rounded' cannot be written in form gptq"),
        (["exl2"], "forms: form 'exl2' is unknown; use one of .*compressed-tensors, fake, gptq"),
        ({"gptq": ["thrid"]}, "forms.gptq: 'thrid' is not defined"),
        ({"fake": ["rounded"]}, "forms.fake: evaluation reads this form of every recipe"),
        ({"gptq": "some"}, "forms"),
    ],
)
def test_wrong_forms_are_refused_before_any_job(forms, message):
    with pytest.raises(ConfigError, match=message):
        load({**SMALL_STUDY, "forms": forms})


def test_evaluation_stays_on_the_fake_form():
    assert load({**SMALL_STUDY, "forms": ["compressed-tensors"]}).variants(Suite(tasks=["arithmetic"]), None) == [
        "baseline",
        "rounded.fake",
        "second-order.fake",
    ]


@pytest.mark.parametrize(
    ("engine", "form", "recipe", "message"),
    [
        ("transformers-int", "compressed-tensors", {"preset": "gptq-w3a16"}, "no kernel for asymmetric W3A16 group"),
        ("transformers-int", "compressed-tensors", recipe({**ROW, "symmetric": False}).dump(), "asymmetric W8A16 channel"),
        ("transformers-int", "gptq", {"preset": "gptq-w4a16"}, "it reads fake, compressed-tensors, modelslim; use engine vllm"),
        ("transformers", "modelslim", {"preset": "rtn-w8a8-ascend"}, "do not load it; use engine vllm or transformers-int"),
        ("transformers", "autoawq", {"preset": "awq-w4a16"}, "do not load it; use engine vllm$"),
    ],
)
def test_what_an_engine_does_not_compute_is_known_before_any_job(engine, form, recipe, message):
    study = {**SMALL_STUDY, "recipes": {"one": recipe, "two": {"preset": "rtn-w8a8-ascend"}}}
    study["suites"] = {"prose": {"tasks": ["text"], "engine": engine, "forms": [form]}}
    with pytest.raises(ConfigError, match=rf"suites\.prose\.forms: engine {engine} does not .*'one' in form {form}: .*{message}"):
        load({**study, "forms": {form: ["one"]}})
    servable = load({**study, "forms": {form: "servable"}})
    config = config_of(servable, "demo")
    assert f"one.{form}" in [f"{recipe}.{form}" for recipe, form in servable.checkpoints(config)]
    assert f"one.{form}" not in servable.variants(servable.suites["prose"], config)
    assert any(line.startswith(f"demo one.{form} is left out of suites.prose: {engine}: ") for line in unserved(servable))


def test_schemes_of_all_forms_import_no_torch():
    code = (
        "import sys; from ptqflow.checkpoints import registry; [registry.scheme(form) for form in registry.forms()]; "
        "print({'torch', 'transformers', 'compressed_tensors'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "set()", result.stderr


@pytest.mark.parametrize("form", registry.forms())
def test_a_folder_of_any_name_is_loaded_as_is_said(form):
    folder, scheme = "/my models/l'autre", registry.scheme(form)
    asked = recipe(ROW if form == "modelslim" else GROUP)
    command, said = scheme.serve(asked, folder), scheme.loading(asked, folder)
    if command is not None:
        assert folder in shlex.split(command)
        assert command in said
    for call in re.findall(r"(?:from_pretrained|load)\(.*?\)", said):
        assert ast.literal_eval(call[call.index("(") :]) == folder
