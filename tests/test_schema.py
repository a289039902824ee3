"""The schema that editors use is the data models' own, and accepts what the workflow accepts."""

import json

import jsonschema
import pytest
import yaml
from checkout import REPOSITORY, SMALL_STUDY
from ptqflow.errors import ConfigError
from ptqflow.study import load, schema

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
    with pytest.raises(ConfigError, match=f"run: {name} is there twice"):
        load({**SMALL_STUDY, "run": [name, name]})


def test_a_learned_transform_without_a_sequence_to_hold_out_is_refused():
    (name,) = SMALL_STUDY["calibrations"]
    one = {**SMALL_STUDY["calibrations"][name], "samples": 1}
    study = {**SMALL_STUDY, "calibrations": {name: one}, "recipes": {"flat": {"preset": "flatquant-w4a4kv4"}}, "run": "all"}
    with pytest.raises(ConfigError, match=rf"calibrations\.{name}\.samples: recipes\.flat holds sequences out"):
        load(study)
