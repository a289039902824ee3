"""The schema that editors use is the data models' own, and accepts what the workflow accepts."""

import json
from typing import get_args

import jsonschema
import pyarrow.parquet
import pytest
import yaml
from checkout import REPOSITORY, SMALL_STUDY
from model_folder import write_model, write_tokenizer
from ptqflow import configfile
from ptqflow.artifacts.manifests import Manifest
from ptqflow.checked import load
from ptqflow.config_schema import schema
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.jobs import Jobs
from ptqflow.linears import LinearName
from ptqflow.presets import resolve
from ptqflow.stages.generate import Settings

SHIPPED = REPOSITORY / "workflow/schemas/config.schema.json"


def test_shipped_schema_is_the_models():
    assert json.loads(SHIPPED.read_text()) == json.loads(json.dumps(schema())), "run `make schema`"


@pytest.mark.parametrize(
    "study", [yaml.safe_load((REPOSITORY / "config.yaml").read_text()), SMALL_STUDY], ids=["default", "small"]
)
def test_schema_accepts_what_runs(study):
    jsonschema.validate(study, schema())


def test_schema_refuses_an_unknown_key():
    with pytest.raises(jsonschema.ValidationError, match="recipies"):
        jsonschema.validate({**SMALL_STUDY, "recipies": {}}, schema())


def test_a_recipe_named_twice_to_run_is_refused():
    name = next(iter(SMALL_STUDY["recipes"]))
    with pytest.raises(ConfigError, match=f"run: {name!r} is there twice"):
        load({**SMALL_STUDY, "run": [name, name]})


def test_a_learned_transform_without_a_sequence_to_hold_out_is_refused():
    (name,) = SMALL_STUDY["calibrations"]
    one = {**SMALL_STUDY["calibrations"][name], "samples": 1}
    study = {**SMALL_STUDY, "calibrations": {name: one}, "recipes": {"flat": {"preset": "flatquant-w4a4kv4"}}, "run": "all"}
    with pytest.raises(ConfigError, match=rf"calibrations\.{name}\.samples: recipes\.flat .*learns from 2 sequences"):
        load(study)


def test_a_model_without_the_words_that_a_study_asks_for_is_refused_before_any_job(tmp_path):
    folder = write_model(tmp_path / "m")
    study = {**SMALL_STUDY, "models": {"m": {"source": {"path": str(folder)}}}, "run": ["rounded"]}
    load(study)
    write_tokenizer(folder, None)
    with pytest.raises(ConfigError, match=r"models\.m\.source: .* has no chat template, which calibrations\.traces need"):
        load(study)
    plain = {name: entry | {"format": "plain"} for name, entry in study["calibrations"].items()}
    load({**study, "calibrations": plain})
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"holds no tokenizer \(tokenizer\.json\); copy"):
        load({**study, "calibrations": plain})


@pytest.mark.parametrize("place", ["alone", "by name", "in a file", "in a folder"])
def test_an_argument_that_a_local_models_chat_template_does_not_read_is_refused_before_any_job(place, tmp_path):
    folder = write_model(tmp_path / "m")
    template = "{{ messages }}\n{%- if enable_thinking is false %}</think>{% endif %}\nadd"
    write_tokenizer(folder, template if place == "alone" else None)
    if place == "by name":
        config = json.loads((folder / "tokenizer_config.json").read_text())
        named = [{"name": "default", "template": "{{ messages }}"}, {"name": "thinking", "template": template}]
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    elif place != "alone":
        file = folder / ("chat_template.jinja" if place == "in a file" else "additional_chat_templates/thinking.jinja")
        file.parent.mkdir(exist_ok=True)
        file.write_text(template)
    study = {**SMALL_STUDY, "models": {"m": {"source": {"path": str(folder)}}}, "run": ["rounded"]}
    problems = {"benchmark": "problems", "source": {"path": str(tmp_path / "rows.jsonl")}}
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "question": "2 + 2?", "answer": "4"}\n')

    def asking(of_calibration, of_task):
        calibrations = {name: entry | {"chat_template_kwargs": of_calibration} for name, entry in study["calibrations"].items()}
        tasks = study["tasks"] | {"sums": problems | {"chat_template_kwargs": of_task}}
        return study | {"calibrations": calibrations, "tasks": tasks, "suites": {"s": {"tasks": ["sums"]}}}

    right, wrong = {"enable_thinking": False}, {"enable_thinkin": False}
    load(asking(right, right))
    with pytest.raises(ConfigError, match=r"calibrations\.traces, model m: chat_template_kwargs\.enable_thinkin is not read by"):
        load(asking(wrong, right))
    with pytest.raises(ConfigError, match=r"tasks\.sums, model m: chat_template_kwargs\.enable_thinkin is not read by"):
        load(asking(right, wrong))


def test_a_recipe_whose_numerics_are_switched_says_so_in_its_name():
    emulating = {"preset": "flatquant-w4a4kv4", "transform": {"emulate": "E0", "guarded": False}}
    for name in ("flat", "flatE0", "flat-E2"):
        with pytest.raises(ConfigError, match=rf"recipes\.{name} emulates E0, .*name it {name}-E0"):
            load({**SMALL_STUDY, "recipes": {name: emulating}, "run": "all"})
    named = load({**SMALL_STUDY, "recipes": {"flat-E0-w4": emulating}, "run": "all"})
    assert named.recipes["flat-E0-w4"].transform.emulate == "E0"
    both = emulating | {"emulate": "E7"}
    with pytest.raises(ConfigError, match=r"recipes\.flat-E0 emulates E7, .*name it flat-E0-E7"):
        load({**SMALL_STUDY, "recipes": {"flat-E0": both}, "run": "all"})
    study = {**SMALL_STUDY, "recipes": {"flat-E0-E7": both}, "run": "all"}
    assert load(study).recipes["flat-E0-E7"].emulate == "E7"
    vllm = {name: suite | {"engine": "vllm"} for name, suite in study["suites"].items()}
    with pytest.raises(
        ConfigError, match=r"engine: vllm cannot compute under switch E7 of recipes\.flat-E0-E7; use transformers"
    ):
        load(study | {"suites": vllm})


OVERRIDDEN = {"preset": "rtn-w4a16"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "rounded"}, "run: Input should be a valid list, or Input should be 'all' (found 'rounded')"),
        ({"run": ["nowhere"]}, "run: 'nowhere' is not defined"),
        ({"replicates": 2}, "replicates: unknown key here; it belongs in recipes.NAME"),
        (
            {"recipes": {"r": OVERRIDDEN | {"overrides": [{"layers": [0], "weights": {"bits": 8}}]}}},
            "recipes.r.overrides.0.weights.bits: unknown key; did you mean 'num_bits'?",
        ),
        (
            {"decide": {"max_size": 3}},
            "decide.max_size: unknown key; use one of engine, max_drop, probability, max_bytes, min_tokens_per_second",
        ),
        (
            {"recipes": {"r": {"preset": "rtn-w4a16", "rounding": {"name": "rtn", "block_size": 64}}}},
            "recipes.r.rounding.block_size: unknown key of what is named here, though others have it; remove it, or change `",
        ),
        ({"recipes": None}, "recipes: keys with values belong here, {key: value, ...} (found null)"),
        ({"recipes": {4: OVERRIDDEN}}, "recipes.4: a name is text; put it in quotes (found 4)"),
        ({"recipes": {"x": {"preset": ["rtn-w4a16"]}}}, "recipes.x: unknown preset ['rtn-w4a16']"),
        (
            {"recipes": {"x": OVERRIDDEN | {"overrides": [{"layers": [0]}]}}},
            "recipes.x.overrides.0: changes nothing; give weights",
        ),
        ({"recipes": {"x": {"preset": "rtn-w8a8", "transform": {"sites": ["qkv"]}}}}, "the key 'name' is required"),
        (
            {"suites": {"s": {"tasks": ["text"], "engine": "vlm"}}},
            "suites.s.engine: engine 'vlm' is unknown; use one of transformers",
        ),
        (
            {"suites": {"s": {"tasks": ["text"]}, "t": {"tasks": ["text"], "engine": "transformers"}}},
            "suites.t: task text at seed 0 is in suites.s already; drop one",
        ),
        ({"latency": {"t": {"batch_sizes": [1, 8, 1]}}}, "latency.t.batch_sizes: 1 is there twice; name each once"),
        (
            {"recipes": {"x": {"preset": "flatquant-w4a4kv4", "rescue": {"rungs": ["eight_bits", "eight_bits"]}}}},
            "recipes.x.rescue.rungs: 'eight_bits' is there twice; name each once",
        ),
        (
            {"suites": {"s": {"tasks": ["text"], "noise_batch_sizes": [1, 64]}}},
            "suites.s: noise_batch_sizes: 64 is asked already; name each other batch size once",
        ),
        (
            {"suites": {"s": {"tasks": ["text"], "tensor_parallel": 2}}},
            "suites.s: tensor_parallel 2: engine transformers computes on one device; use 1, or an engine that shares",
        ),
        (
            {"latency": {"t": {"engine": "vllm", "tensor_parallel": 8}}},
            "latency.t: tensor_parallel 8 does not divide the 4 attention heads of model demo; use a divisor",
        ),
        (
            {"latency": {"t": {"engine": "vllm", "tensor_parallel": 0}}},
            "latency.t.tensor_parallel: Input should be greater than or equal to 1, or keys with values belong here, {key: value",
        ),
        (
            {"latency": {"t": {"engine": "vllm", "tensor_parallel": {"larger": 2}}}},
            "latency.t.tensor_parallel: 'larger' is not defined; define it or use one of demo",
        ),
        (
            {"suites": {"s": {"tasks": ["text"], "engine": "vllm", "tensor_parallel": 2}}},
            "suites.s: tensor_parallel 2 would cut the input_shards 1 of recipe 'rounded' in form fake; use a divisor of 1, "
            "quantize with input_shards 2, which no real form of it has, or ask real forms alone (an entry whose `forms`",
        ),
        (
            {"suites": {"s": {"tasks": ["text"], "engine": "vllm", "tensor_parallel": {"demo": 3}}}},
            "suites.s: tensor_parallel 3 does not divide the 4 attention heads of model demo; use a divisor",
        ),
        (
            {"latency": {"t": {"engine": "vllm", "tensor_parallel": {"demo": 0}}}},
            "config.yaml: latency.t.tensor_parallel.demo: Input should be greater than or equal to 1 (found 0)",
        ),
        (
            {"latency": {"t": {"engine": "vllm", "tensor_parallel": {"other": 2}}}},
            "latency.t.tensor_parallel: 'other' is not defined; define it or use one of demo",
        ),
        (
            {"recipes": {"w4" * 20: OVERRIDDEN}},
            f"recipes.{'w4' * 20}: Snakemake takes no name whose end is there 20 times in a row; shorten it",
        ),
        (
            {"recipes": {"x": OVERRIDDEN | {"rotation": {"name": "hadamard", "seed": 2**63}}}},
            "recipes.x.rotation.seed: Input should be less than 9223372036854775808",
        ),
        *(
            (
                {"models": {"m": {"source": {"repo": repo, "revision": "0" * 40}, "layers": 2}}},
                "models.m.source.repo: no repository of the model hub, which is org/name; correct it, or give a local folder as",
            )
            for repo in ("not a repo!", "http://huggingface.co/org/name", "a/b/c", "org/", "./m", "")
        ),
        ({"models": {"m": {"source": {"path": "nowhere"}}}}, "models.m.source: model path nowhere is not a folder"),
        (
            {"tasks": {"t": {"benchmark": "math", "source": {"path": "x"}}}},
            "known benchmarks: aime, aime-120, arc, choices, gpqa",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_refusals_name_the_key_as_it_is_written_and_the_remedy(change, message, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(ConfigError) as error:
        load({**SMALL_STUDY, **change})
    assert message in str(error.value)


def test_numbers_that_are_not_finite_are_refused():
    recipe = {"preset": "gptq-w4a16", "clip": {"name": "mse", "norm": float("inf")}}
    with pytest.raises(ConfigError, match="norm: Input should be a finite number"):
        load({**SMALL_STUDY, "recipes": {"x": recipe}})


def test_calibration_rows_in_a_file_of_another_kind_are_refused_before_any_job(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "own.txt").write_text("A passage.")
    (name,) = SMALL_STUDY["calibrations"]
    with pytest.raises(
        ConfigError, match=rf"calibrations\.{name}\.source: .*own\.txt: rows are read from \.jsonl, \.parquet or \.csv"
    ):
        load({**SMALL_STUDY, "calibrations": {name: {"source": {"path": str(tmp_path / "own.txt")}}}})


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").symlink_to(REPOSITORY / "resources/demo-model")
    study = load({**SMALL_STUDY, "models": {"m": {"source": {"path": "~/model"}}}})
    assert study.models["m"].source.path == str(tmp_path / "model")


def test_a_key_that_is_there_twice_is_refused_with_its_lines(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("recipes:\n  a: &a {preset: rtn-w4a16}\n  b: {<<: *a, input_shards: 2}\ntasks: {}\n")
    configfile.check(path)
    path.write_text("recipes:\n  a: {preset: rtn-w4a16}\n  a: {preset: rtn-w3a16}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: recipes\.a is there twice \(lines 2 and 3\)"):
        configfile.check(path)


def test_a_hub_model_that_took_anothers_name_is_not_judged_by_what_was_fetched_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("resources/calibration", "resources/tasks"):
        (tmp_path / folder).parent.mkdir(exist_ok=True)
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    folder = tmp_path / "results/models/m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((REPOSITORY / "resources/demo-model/config.json").read_text())
    before = {"repo": "org/before", "revision": "a" * 40}
    Manifest.of_folder(folder, ["config.json"], {"source": before}).write(folder)
    with pytest.raises(ConfigError, match=r"models\.m\.layers: 36, but the model has 4"):
        load({**SMALL_STUDY, "models": {"m": {"source": before, "layers": 36}}})
    load({**SMALL_STUDY, "models": {"m": {"source": before | {"repo": "org/after"}, "layers": 36}}})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gpt2", "n_layer": 12}, "models.m: model_type 'gpt2' is not supported; use a model of type"),
        ({"model_type": "qwen2_5_vl", "text_config": {}}, "models.m: model_type 'qwen2_5_vl' is not supported"),
        ({"model_type": "llama", "hidden_size": 64}, "models.m: config.json states no num_hidden_layers, intermediate_size"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["model_type"],
)
def test_a_model_that_is_not_supported_is_refused_whatever_its_config_lacks(config, message, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for file in (REPOSITORY / "resources/demo-model").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError) as error:
        load({**SMALL_STUDY, "models": {"m": {"source": {"path": str(tmp_path)}}}})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scheme": {"weights": {"group_size": 64}}}, {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 64}),
        ({"scheme": {"weights": {"num_bits": 3}}}, {"num_bits": 3, "symmetric": False, "strategy": "group", "group_size": 128}),
        ({"scheme": {"weights": {"symmetric": True}}}, {"num_bits": 4, "symmetric": True, "group_size": 128}),
        ({"scheme": {"weights": {"strategy": "channel", "group_size": None}}}, {"symmetric": False, "strategy": "channel"}),
        ({"scheme": {"input_activations": {"num_bits": 8}}}, {"num_bits": 4, "symmetric": False, "group_size": 128}),
    ],
)
def test_a_change_of_a_preset_reaches_the_leaf_and_nothing_beside_it(changes, expected):
    for preset in ("rtn-w4a16", "gptq-w4a16", "awq-w4a16"):
        recipe, whole = resolve({"preset": preset, **changes}), resolve({"preset": preset})
        assert expected.items() <= recipe.scheme.weights.model_dump().items()
        assert recipe.model_copy(update={"scheme": whole.scheme}) == whole


def test_a_part_of_another_name_and_null_replace_what_a_preset_says():
    assert resolve({"preset": "gptq-w4a16", "rounding": {"actorder": False}}).rounding.model_dump() == {
        **{"name": "gptq", "dampening_frac": 0.01, "block_size": 128, "actorder": False},
        **{"asymmetric_calibration": False, "ridge": None, "token_weights": "equal"},
    }
    flat = resolve({"preset": "flatquant-w4a4-ascend", "transform": {"epochs": 2}}).transform
    assert (flat.epochs, flat.sites) == (2, ["qkv", "gate_up"])
    other = resolve({"preset": "flatquant-w4a4-ascend", "transform": {"name": "smoothquant"}}).transform
    assert other.sites == ["qkv", "gate_up"] == type(other)(name="smoothquant").sites
    plain = resolve({"preset": "gptq-w4a16", "clip": {"name": "none"}, "rounding": {"name": "rtn"}}).methods()
    assert [method.name for method in plain] == ["none", "none", "none", "rtn"]
    assert resolve({"preset": "rtn-w4a4kv4", "scheme": {"kv_cache": None}}).scheme.kv_cache is None
    assert resolve({"preset": "flatquant-w4a4-ascend", "overrides": []}).overrides == []
    with pytest.raises(ValueError, match="give group_size: null"):
        resolve({"preset": "rtn-w4a16", "scheme": {"weights": {"strategy": "channel"}}})


@pytest.mark.parametrize(("form", "keys"), [("plain", {"prompt": "a"}), ("chat", {"completion": "b"}), ("chat", {"text": "c"})])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_column_that_a_local_calibration_lacks_is_said_before_any_job(tmp_path, form, keys, suffix):
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n" + json.dumps(keys) + "\nnot read\n")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([keys]), path)
    (name,) = SMALL_STUDY["calibrations"]
    entry = {**SMALL_STUDY["calibrations"][name], "source": {"path": str(path)}, "format": form}
    with pytest.raises(ConfigError, match=rf"calibrations\.{name}\.source: .* has no column '(prompt|completion)' but '"):
        load({**SMALL_STUDY, "calibrations": {name: entry}})


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_files_without_rows_are_refused_before_any_job(tmp_path, suffix, monkeypatch):
    """Of calibration and of tasks; a part without rows beside one that has some is none."""
    monkeypatch.chdir(REPOSITORY)
    row = {"id": "1", "prompt": "a", "completion": "b", "text": "c"}

    def write(part, rows):
        path = tmp_path / f"test-{part}.{suffix}"
        if suffix == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]).slice(0, rows), path)
        else:
            lines = [",".join(row), *[",".join(row.values())] * rows] if suffix == "csv" else ["", *[json.dumps(row)] * rows]
            path.write_text("\n".join(lines))

    write(0, rows=0)
    (name,) = SMALL_STUDY["calibrations"]
    calibrations = {name: {**SMALL_STUDY["calibrations"][name], "source": {"path": str(tmp_path), "split": "test"}}}
    with pytest.raises(ConfigError, match=rf"calibrations\.{name}\.source: source .* holds no rows; correct path"):
        load({**SMALL_STUDY, "calibrations": calibrations})
    tasks = {"text": {"benchmark": "text", "source": {"path": str(tmp_path), "split": "test"}}}
    with pytest.raises(ConfigError, match=r"tasks\.text\.source: source .* holds no rows; correct path"):
        load({**SMALL_STUDY, "tasks": tasks})
    write(1, rows=1)
    load({**SMALL_STUDY, "calibrations": calibrations, "tasks": tasks})


def test_prompts_of_latency_fit_into_the_model():
    timing = {"fast": {"prompt_tokens": [16, 10**6], "new_tokens": 8}}
    with pytest.raises(ConfigError, match=r"latency\.fast\.prompt_tokens and new_tokens: sequences of 1000008 tokens, but model"):
        load({**SMALL_STUDY, "latency": timing})


def test_all_recipes_that_do_not_fit_are_named_at_once():
    bad = {"preset": "rtn-w4a16", "scheme": {"weights": {"group_size": 96}}}
    with pytest.raises(ConfigError, match=r"recipe 'one': weights\.group_size 96 .*; recipe 'two': weights\.group_size 96"):
        load({**SMALL_STUDY, "recipes": {"one": bad, "two": bad}, "run": "all", "forms": ["fake"]})


def test_rows_of_another_benchmark_are_refused_before_any_job(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "2 + 2?", "reply": "4"}\n')
    tasks = {"sums": {"benchmark": "gsm8k", "source": {"path": str(tmp_path / "rows.jsonl")}}}
    with pytest.raises(
        ArtifactError, match=r"tasks\.sums\.source: task sums: row 0 of .*rows\.jsonl is not a row of gsm8k .*'answer'"
    ):
        load({**SMALL_STUDY, "tasks": tasks, "suites": {"s": {"tasks": ["sums"]}}})


def test_the_vendors_mixes_assign_bits_as_its_own_files_do():
    w8a8, w4a4 = resolve({"preset": "vendor-w8a8"}), resolve({"preset": "vendor-w4a4"})
    for layer in range(28):
        for linear in get_args(LinearName):
            kept = linear == "down_proj"
            assert (w8a8.weights(layer, linear) is None, w8a8.input_activations(layer, linear) is None) == (kept, kept)
    at_8 = {
        (layer, linear)
        for layer in range(64)
        for linear in get_args(LinearName)
        if (w4a4.weights(layer, linear).num_bits, w4a4.input_activations(layer, linear).num_bits) == (8, 8)
    }
    gate_up = {layer for layer, linear in at_8 if linear in ("gate_proj", "up_proj")}
    assert gate_up == {1, 2, 3, 4, 5, 6, 7, 8, 30, 31, 32, 43, 44, 45, 46, 52, 60, 61, 62, 63}
    assert len(at_8) == 64 * 5 + 20 * 2
    rest = {(layer, linear) for layer in range(64) for linear in get_args(LinearName)} - at_8
    assert {w4a4.weights(*one).num_bits for one in rest} == {4} == {w4a4.input_activations(*one).num_bits for one in rest}


def test_an_engine_that_forms_its_batches_is_told_of_other_batches_alone():
    """vLLM takes what it likes, but for the noise of other batches; transformers has to be told always."""
    suites = {"one": {"tasks": ["text"], "batch_size": 8}, "two": {"tasks": ["text"], "engine": "vllm", "noise_batch_sizes": [4]}}
    jobs = Jobs(load({**SMALL_STUDY, "suites": suites}))
    asked = {
        (engine, who): json.loads(jobs.generate("demo", engine, "text", 0, who))["batch_size"]
        for engine in ("transformers", "vllm")
        for who in ("baseline", "baseline@4")
    }
    assert asked == {
        ("transformers", "baseline"): 8,
        ("transformers", "baseline@4"): 4,
        ("vllm", "baseline"): None,
        ("vllm", "baseline@4"): 4,
    }
    place = {"task": "t", "benchmark": "text", "source": {"path": "x"}, "batch_size": None}
    assert Settings(**place, engine="vllm").batch_size is None
    with pytest.raises(ValueError, match="transformers forms no batches itself; say how many"):
        Settings(**place, engine="transformers")
