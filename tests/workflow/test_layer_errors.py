"""A study that does not measure errors of layers asks for less, and its other jobs stay as they are."""

import copy
import json

import pytest
from ptqflow import configfile
from ptqflow.checked import load
from ptqflow.expected import expected
from ptqflow.jobs import Jobs

CONFIG = configfile.read("config.yaml")


def jobs(**changed):
    config = copy.deepcopy(CONFIG) | {"recipes": {"rtn": {"preset": "rtn-w4a16"}, "gptq": {"preset": "gptq-w4a16"}}} | changed
    return Jobs(load(config | {"run": "all", "forms": ["fake"]}))


@pytest.mark.parametrize(("recipe", "same"), [("rtn", False), ("gptq", True)])
def test_only_jobs_that_would_measure_nothing_else_are_told(recipe, same):
    plain, quick = jobs(), jobs(layer_errors=False)
    assert (quick.quantize("demo", recipe, 0) == plain.quantize("demo", recipe, 0)) == same
    assert json.loads(quick.quantize("demo", recipe, 0)).get("layer_errors", True) == same
    assert quick.export(recipe, "fake") == plain.export(recipe, "fake")
    assert plain.quantize("demo", recipe, 0) == jobs(layer_errors=True).quantize("demo", recipe, 0)


def test_nothing_is_collected_for_a_recipe_that_runs_no_states():
    def collected(found):
        return [who["recipes"] for kind, who, _ in expected(found.study, "cpu") if kind == "statistics"]

    assert collected(jobs()) == [["rtn", "gptq"]]
    assert collected(jobs(layer_errors=False)) == [["gptq"]]
