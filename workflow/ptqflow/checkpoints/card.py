"""The model card of a checkpoint (`README.md`): what was done to which model, with what, and how to load the result.

Its front matter is what the hub reads: base model, licence, data sets. Nothing stands in it that is not known.
"""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from ptqflow.artifacts.models import CARD, front_matter
from ptqflow.checkpoints.registry import FAKE
from ptqflow.checkpoints.schemes import in_words
from ptqflow.recipes import Recipe

_TAGS = {FAKE: ["fake-quantized"], "autoawq": ["awq"], "gptq": ["gptq"], "compressed-tensors": ["compressed-tensors"]}
_LICENCE = ("license", "license_name", "license_link")
UNSCORED = """Nothing was measured on this checkpoint as it was written. A study's scores, with their intervals, are in its
`results/tables`; there, `ptqflow card` with this folder prints this card with them."""
_TEXT = """---
{front}---
# {name}, quantized

{base}

{words}
{fallbacks}{warnings}
## Loading

In this folder:

{loading}

## Recipe

```yaml
{recipe}```

## Calibration

{calibration}

## Scores

{scores}

## Where it comes from

<details><summary>Hashes and versions</summary>

| | |
|---|---|
{rows}

</details>

`ptqflow.json` holds the same as data.{source_card}
"""


def card(recipe: Recipe, form: str, loading: str, config: Mapping[str, Any], origin: Mapping[str, Any], notices: Path) -> str:
    """Text of the card. `origin`: provenance of the export; `notices`: folder of the float model's. Equal inputs, equal text."""
    source = origin.get("source") or {}
    architecture = (config.get("architectures") or [config["model_type"]])[0]
    name = str(source.get("repo") or source.get("path") or architecture)
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"base_model": source["repo"], "base_model_relation": "quantized"} if source.get("repo") else {}),
        **licence(notices),
        **({"datasets": [repo]} if (repo := _settings_of(origin)["source"].get("repo")) else {}),
        "tags": ["quantized", "ptqflow", *_TAGS.get(form, [form])],
    }
    carried = (notices / CARD).is_file()
    return _TEXT.format(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        name=name,
        base=_base(source, architecture, recipe),
        words=_words(recipe, form),
        fallbacks="".join(f"\nNot as the recipe says, in {n} places: {why}.\n" for why, n in origin.get("fallbacks", {}).items()),
        warnings="".join(f"\nA warning, in {n} places: {why}.\n" for why, n in origin.get("warnings", {}).items()),
        loading=loading,
        recipe=yaml.safe_dump(recipe.dump(), sort_keys=False, allow_unicode=True),
        calibration=_calibration(origin),
        scores=UNSCORED,
        rows="\n".join(f"| {what} | {value} |" for what, value in _provenance(origin)),
        source_card=" The float model's own card is `README.source.md`: it describes the float model." if carried else "",
    )


def licence(notices: Path) -> dict[str, Any]:
    """What the float model's card says of its licence, in the hub's keys."""
    said = front_matter(notices)
    return {key: said[key] for key in _LICENCE if isinstance(said.get(key), str | list)}


def _base(source: Mapping[str, Any], architecture: str, recipe: Recipe) -> str:
    turned = f" Its residual stream was turned first (rotation {recipe.rotation.name})." if recipe.rotation.label else ""
    if source.get("repo"):
        repo, revision = source["repo"], source["revision"]
        link = f"[{repo}](https://huggingface.co/{repo}) at commit [`{revision}`](https://huggingface.co/{repo}/tree/{revision})"
        return f"Base model: {link}, a {architecture}.{turned}"
    named = f"a local folder named `{source['path']}`" if source.get("path") else "not recorded"
    return f"Base model: {named}, a {architecture}.{turned}"


def _words(recipe: Recipe, form: str) -> str:
    if form != FAKE:
        return f"Form `{form}`. {in_words(recipe)}"
    return (
        f"Form `{FAKE}`, for evaluation: an emulation. Weights are stored in high precision and take only the values that the "
        f"recipe's grid has; no file is smaller and no kernel faster than the float model's. {in_words(recipe, stored='grids')}"
    )


def _settings_of(origin: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (origin.get("calibration_set") or {}).get("settings") or {"source": {}}
    return found


def _calibration(origin: Mapping[str, Any]) -> str:
    said = _settings_of(origin)
    if "samples" not in said:
        return "Not recorded."
    source = said["source"]
    place = f"`{source['repo']}` at commit `{source['revision']}`" if source.get("repo") else f"`{PurePath(source['path']).name}`"
    parts = [f"{key} {source[key]}" for key in ("subset", "split", "file") if source.get(key)]
    shape = f"{said['samples']} windows of {said['sequence_length']} tokens, format {said['format']}, seed {said['seed']}"
    return f"{shape}, of {', '.join([place, *parts])}."


def _provenance(origin: Mapping[str, Any]) -> list[tuple[str, str]]:
    inputs = origin["inputs"]
    rows = [(f"float model, `{name}`", f"sha256 `{digest}`") for name, digest in sorted(inputs["model"].items())]
    rows += [("integers and scales (`qparams.safetensors`)", f"sha256 `{digest}`") for digest in inputs["qparams"]]
    rows.append(("calibration (`tokens.parquet` of the set)", f"sha256 `{origin['calibration']}`"))
    rows.append(("code", f"`{origin['code'] or 'not recorded'}`"))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in sorted(origin["versions"].items()))))
    return rows
