"""JSON Schema of `config.yaml`, from the data models: `python -m ptqflow.config_schema` prints it (`make schema`)."""

import json
from typing import Any

from ptqflow.evaluation.tasks import KINDS, benchmarks_of
from ptqflow.presets import PRESETS
from ptqflow.study import Study


def schema() -> dict[str, Any]:
    """JSON Schema of `config.yaml`, for editors: the data models', with the `preset` that a recipe may start from."""
    data = Study.model_json_schema()
    recipe = data["$defs"]["Replicated"]
    recipe["properties"]["preset"] = {"enum": list(PRESETS), "title": "Preset", "description": "named recipe to start from"}
    recipe["required"].remove("scheme")  # a preset brings what an entry leaves out, down to the leaves
    scheme = [data["$defs"][name] for name in ("WeightArgs", "ActivationArgs", "CacheArgs")]
    parts = [method for part in ("transform", "clip", "rounding") for method in recipe["properties"][part]["anyOf"]]
    for model in (*scheme, *parts):
        model.pop("required", None)
    for kind, task in KINDS.items():  # so that one of them fits, with its keys
        data["$defs"][task.__name__]["properties"]["benchmark"] |= {"enum": benchmarks_of(kind)}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ptqflow config.yaml", **data}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
