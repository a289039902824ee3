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
