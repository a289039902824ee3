"""The model card of a checkpoint (`README.md`): what was done to the model, with what, and how to load the result."""

from collections.abc import Mapping
from typing import Any

from ptqflow.checkpoints.schemes import in_words
from ptqflow.recipes import Recipe

_TEXT = """---
library_name: transformers
pipeline_tag: text-generation
tags: [quantized, ptqflow, {form}]
---
# {architecture}, quantized: form `{form}`

{words}
{fallbacks}
## Loading

{loading}

## Where it comes from

| | |
|---|---|
{rows}

Recipe, complete:

```json
{recipe}
```

`ptqflow.json` holds the same as data. The float model's own card, where it had one, is `README.source.md`: it describes the float
model. Nothing here was measured on this checkpoint: scores, speed and verification are in the study's results.
"""


def card(recipe: Recipe, form: str, loading: str, config: Mapping[str, Any], origin: Mapping[str, Any], recipe_json: str) -> str:
    """Text of the card. `origin`: provenance of the export; equal inputs give equal text."""
    inputs, fallbacks = origin["inputs"], origin.get("fallbacks", {})
    rows = [(f"float model, `{name}`", f"sha256 `{digest}`") for name, digest in sorted(inputs["model"].items())]
    rows += [("integers and scales (`qparams.safetensors`)", f"sha256 `{digest}`") for digest in inputs["qparams"]]
    rows.append(("calibration (`tokens.parquet` of the set)", f"sha256 `{origin['calibration']}`"))
    rows.append(("code", f"`{origin['code'] or 'not recorded'}`"))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in sorted(origin["versions"].items()))))
    return _TEXT.format(
        form=form,
        architecture=(config.get("architectures") or [config["model_type"]])[0],
        words=in_words(recipe),
        fallbacks="".join(f"\nNot as the recipe says, in {count} places: {why}.\n" for why, count in fallbacks.items()),
        loading=loading,
        rows="\n".join(f"| {what} | {value} |" for what, value in rows),
        recipe=recipe_json,
    )
