"""A study that does not measure errors of layers asks for less, and its other jobs stay as they are."""

import copy
import json

from ptqflow import configfile
from ptqflow.checked import load
from ptqflow.expected import expected
from ptqflow.jobs import Jobs

CONFIG = configfile.read("config.yaml")


def jobs(**changed):
    config = copy.deepcopy(CONFIG) | {"recipes": {"rtn": {"preset": "rtn-w4a16"}, "gptq": {"preset": "gptq-w4a16"}}} | changed
    return Jobs(load(config | {"run": "all", "forms": ["fake"]}))


def test_jobs_are_told_where_nothing_is_to_be_measured_but_for_a_rescue():
    flat = {"preset": "flatquant-w4a4kv4", "rescue": {}}
    plain, quick = jobs(), jobs(layer_errors=False)
    for recipe in plain.study.chosen:
        assert json.loads(quick.quantize("demo", recipe, 0)) == json.loads(plain.quantize("demo", recipe, 0)) | {
            "layer_errors": False
        }
        assert quick.export(recipe, "fake") == plain.export(recipe, "fake")
        assert plain.quantize("demo", recipe, 0) == jobs(layer_errors=True).quantize("demo", recipe, 0)
    quick, plain = (jobs(layer_errors=on, recipes={"flat": flat}) for on in (False, True))
    assert quick.quantize("demo", "flat", 0) == plain.quantize("demo", "flat", 0)


def test_nothing_is_collected_for_a_recipe_that_runs_no_states():
    def collected(found):
        return [who["recipes"] for kind, who, _ in expected(found.study, "cpu") if kind == "statistics"]

    assert collected(jobs()) == [["rtn", "gptq"]]
    assert collected(jobs(layer_errors=False)) == [["gptq"]]
