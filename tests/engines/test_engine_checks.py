"""What `make check-engines` is about to do, and what it thinks of rows. The proofs themselves run in other environments."""

import json
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from checkout import REPOSITORY
from ptqflow.artifacts import schemas
from ptqflow.artifacts.tables import to_table
from ptqflow.checkpoints.registry import refusal
from ptqflow.errors import ConfigError
from ptqflow.modeling.quantizer import recipe_of
from ptqflow.presets import resolve

sys.path.insert(0, str(REPOSITORY / "tests" / "engines"))
import check
from compare import differences

STUDY = yaml.safe_load((REPOSITORY / "tests/engines/study.yaml").read_text())
CONFIG = json.loads((REPOSITORY / "resources/demo-model/config.json").read_text())
LOADED = {"form": "fake", "recipe": "rtn-w8a8kv8", "engine": "vllm", "dtype": "float32", "loaded": True, "message": ""}
LOADED |= {"mean_logit_difference": 0.02, "max_logit_difference": 1.0, "perplexity": 2.001, "reference_perplexity": 2.0}


def test_every_checkpoint_of_the_proofs_can_be_written():
    pairs = set().union(*(proof.checkpoints() for proof in check.PROOFS.values())) - {("baseline", "float")}
    assert {recipe for recipe, _ in pairs} <= set(STUDY["recipes"])
    assert {pair: reason for pair in pairs if (reason := refusal(pair[1], resolve(STUDY["recipes"][pair[0]]), CONFIG))} == {}


@pytest.mark.parametrize("name", check.PROOFS)
def test_every_engine_has_a_proof_and_a_way_to_make_its_environment(name):
    assert (REPOSITORY / f"tests/engines/{name}_proof.py").is_file()
    environment = check.PROOFS[name].environment
    assert environment == ".venv" or f"{environment}/.ready:" in (REPOSITORY / "Makefile").read_text()


def test_recipes_can_be_restricted():
    some = check.PROOFS["vllm"].restricted(["baseline", "rtn-w4"]).checkpoints()
    assert some == {("baseline", "float"), ("rtn-w4", "fake"), ("rtn-w4", "compressed-tensors")}
    assert check.PROOFS["vllm"].restricted(None) == check.PROOFS["vllm"]


def test_limits_are_in_units_of_what_the_number_type_changes():
    exact = check.limits_of(LOADED | {"recipe": "rtn-w4"}, STUDY)
    ties = check.limits_of(LOADED, STUDY)
    assert check.judged(LOADED, ties, 0.1)["passed"]
    assert not check.judged(LOADED, exact, 0.1)["passed"]
    assert "above 0.00300" in check.judged(LOADED, ties, 0.01)["message"]
    assert "perplexity" in check.judged(LOADED | {"perplexity": 2.1}, ties, 0.1)["message"]
    assert not check.judged(LOADED | {"mean_logit_difference": float("nan")}, ties, 0.1)["passed"]


def test_rows_that_did_not_load_fail_unless_they_were_to_be_refused():
    row = {"form": "modelslim", "recipe": "w8a8", "engine": "vllm-ascend", "loaded": False, "message": "KeyError"}
    limits = check.LIMITS["bfloat16"]
    rows = [check.judged(row | more, limits, 0.1) | {"baseline_bytes": 8} for more in ({}, {"refused_as_stated": True})]
    assert [row["passed"] for row in rows] == [False, True]
    known = [{key: value for key, value in row.items() if key in schemas.ENGINES.names} for row in rows]
    assert to_table(schemas.ENGINES, known).num_rows == 2
    assert "FAILED KeyError" in check.markdown([check.table(rows)])


def test_rows_that_this_machine_cannot_run_neither_pass_nor_fail_and_are_named():
    row = {"form": "autoawq", "recipe": "awq-w4", "engine": "vllm", "loaded": False, "not_run": True}
    judged = check.judged(row | {"message": "not run: no kernel"}, check.LIMITS["bfloat16"], 0.1) | {"baseline_bytes": 8}
    assert judged["passed"] is None
    text = check.markdown([check.table([judged])])
    assert "not run: no kernel: awq-w4 (autoawq, vllm)" in text
    assert "FAILED" not in text


def test_differences_do_not_see_a_constant_per_position():
    logits, tokens = torch.randn(2, 5, 7), torch.randint(7, (2, 6))
    shifted = differences(logits.log_softmax(-1), torch.cat([logits, logits[:, :1]], 1), tokens)
    assert shifted["max_logit_difference"] < 1e-5
    assert shifted["perplexity"] == pytest.approx(shifted["reference_perplexity"], rel=1e-5)
    assert differences(logits + torch.eye(7)[0], logits, tokens)["max_logit_difference"] == pytest.approx(6 / 7, rel=1e-4)


def test_vllm_finds_the_plugin():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    module, function = project["entry-points"]["vllm.general_plugins"]["ptqflow"].split(":")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    assert f"def {function}() -> None" in Path(spec.origin).read_text()


def test_a_recipe_of_a_checkpoint_is_read_back_or_refused_in_a_sentence():
    recipe = resolve({"preset": "flatquant-w4a4kv4"})
    assert recipe_of({"quant_method": "ptqflow", "version": 1, "recipe": recipe.dump()}) == recipe
    with pytest.raises(ConfigError, match=r"quantization_config\.recipe: .*input_shard.*export the checkpoint again"):
        recipe_of({"version": 1, "recipe": recipe.dump() | {"input_shard": 2}})
    with pytest.raises(ConfigError, match="this ptqflow reads version 1"):
        recipe_of({"version": 2, "recipe": recipe.dump()})
