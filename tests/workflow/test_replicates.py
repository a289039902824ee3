"""Replicates of a recipe are planned beside it, and change nothing of what it and others are told."""

import copy
import json

import pytest
from ptqflow import configfile, paths, replicate_names, replicates
from ptqflow.checked import load
from ptqflow.checkpoints.registry import FAKE
from ptqflow.errors import ConfigError
from ptqflow.expected import expected as expected_files
from ptqflow.jobs import Jobs
from ptqflow.presets import PRESETS, resolve

CONFIG = configfile.read("config.yaml")


def jobs(**changed):
    """Jobs of the demo with these recipes changed."""
    config = copy.deepcopy(CONFIG)
    for recipe, keys in changed.items():
        config["recipes"][recipe.replace("_", "-")] |= keys
    return Jobs(load(config))


def expected(found, kind):
    return [(who, path) for k, who, path in expected_files(found.study, "cpu") if k == kind]


def test_a_replicate_is_the_recipe_on_another_draw():
    found = jobs(awq_w4={"replicates": 3})
    alone = jobs()
    assert found.study.chosen[3:6] == ["awq-w4", "awq-w4@1", "awq-w4@2"]
    assert found.study.calibration_of("awq-w4@2") == "traces@2"
    told = [json.loads(found.tokens(name)) for name in ("traces", "traces@1", "traces@2")]
    assert [settings.pop("seed") for settings in told] == [0, 1, 2]
    assert told[0] == told[1] == told[2]
    assert {found.quantize("demo", f"awq-w4{which}", 1) for which in ("", "@1", "@2")} == {alone.quantize("demo", "awq-w4", 1)}


@pytest.mark.parametrize("replicated", [{}, {"replicates": 1}, {"replicates": 4}])
def test_what_is_planned_without_replicates_is_not_changed_by_them(replicated):
    """Settings, code and files of every job of the recipe itself, of all others, and of the baseline."""
    alone, found = jobs(), jobs(gptq_w4=replicated)
    for recipe in alone.study.chosen:
        assert found.quantize("demo", recipe, 0) == alone.quantize("demo", recipe, 0)
        assert found.export(recipe, FAKE) == alone.export(recipe, FAKE)
        assert found.quantize_code("demo", recipe) == alone.quantize_code("demo", recipe)
    mine = list(expected_files(alone.study, "cpu"))
    theirs = list(expected_files(found.study, "cpu"))
    assert [file for file in theirs if "replicate" not in file[1]] == mine
    assert (len(theirs) == len(mine)) == (replicated.get("replicates", 1) == 1)


def test_replicates_are_scored_and_neither_timed_nor_verified_nor_served():
    found = jobs(awq_w4={"replicates": 2})
    assert [kind for kind, who, _ in expected_files(found.study, "cpu") if "replicate" in who] == ["checkpoints", *["scores"] * 4]
    (who, path), *_ = [file for file in expected(found, "scores") if "replicate" in file[0]]
    assert (who["recipe"], who["replicate"]) == ("awq-w4", 1)
    assert path == paths.scores("cpu", "demo", "awq-w4@1.fake", "transformers", "arithmetic", 0)


def test_forms_that_a_suite_scores_are_written_of_replicates_too():
    config = copy.deepcopy(CONFIG)
    config["recipes"]["awq-w4"]["replicates"] = 2
    config["suites"]["real"] = {"tasks": ["facts"], "engine": "transformers", "forms": ["compressed-tensors"], "seeds": [1]}
    found = {variant for variant in load(config).checkpoints(None) if variant[0] == "awq-w4@1"}
    assert found == {("awq-w4@1", FAKE), ("awq-w4@1", "compressed-tensors")}


def test_seeds_of_a_method_are_drawn_anew():
    found = jobs(flatquant_w4a4kv4={"replicates": 3}).study.recipes
    assert [found[f"flatquant-w4a4kv4{which}"].transform.seed for which in ("", "@1", "@2")] == [0, 1, 2]
    rotated = {"rotation": {"name": "hadamard", "seed": 5}, "replicates": 2}
    study = jobs(gptq_w4=rotated).study
    labels = [study.source_of("demo", name) for name in ("gptq-w4", "gptq-w4@1")]
    assert labels == ["demo.hadamard-seed-5", "demo.hadamard-seed-6"]


def test_a_recipe_that_draws_nothing_has_no_replicates():
    with pytest.raises(ConfigError, match=r"recipes.rtn-w4.replicates: nothing of this recipe is drawn"):
        jobs(rtn_w4={"replicates": 2})
    drawn = {name for name in PRESETS if replicates.is_drawn(resolve({"preset": name}))}
    assert {"rtn-w4a16", "rtn-w8a8", "rtn-w4a4kv4", "rtn-w8a16-ascend"}.isdisjoint(drawn)
    assert drawn >= {name for name in PRESETS if name.startswith(("awq", "gptq", "smoothquant", "flatquant"))}
    assert "rtn-w8a8-static-ascend" in drawn


def test_names_of_a_study_cannot_be_those_of_replicates():
    with pytest.raises(ConfigError, match="awq-w4@1"):
        load(CONFIG | {"recipes": CONFIG["recipes"] | {"awq-w4@1": {"preset": "awq-w4a16"}}})
    assert replicate_names.split(replicate_names.name("r", 3)) == ("r", 3)
    assert replicate_names.split("r") == ("r", 0)
