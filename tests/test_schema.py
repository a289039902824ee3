"""The schema that editors use is the data models' own, and accepts what the workflow accepts."""

import json

import jsonschema
import pytest
import yaml
from checkout import REPOSITORY, SMALL_STUDY
from ptqflow.study import schema

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
