"""The chunks that a checkpoint is made of: each block once, by one recipe, from one model and one calibration."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.provenance import refuse_others
from ptqflow.artifacts.schemas import STATISTICS_FILE
from ptqflow.checkpoints.schemes import schemes
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.modeling.qparams import QParams
from ptqflow.recipes import Override, Recipe


def check_parts(qparams: QParams, recipe: Recipe, config: Mapping[str, Any], model: Manifest) -> str:
    """Refuse chunks that are not whole, or not of this recipe and model, or of several calibrations. Returns the tokens' sha256.

    Raises ArtifactError or ConfigError naming the file of the first chunk that does not fit.
    """
    layers = int(config["num_hidden_layers"])
    covered: list[int] = []
    asked: dict[str, Any] = {"model": {name: entry.sha256 for name, entry in model.files.items()}}
    for path, origin in qparams.metadata.items():
        settings, inputs = origin.get("settings", {}), origin.get("inputs", {})
        if "layers" not in settings:
            raise ArtifactError(f"{path} does not say which layers it holds; delete it and run quantize again")
        chunk = range(*settings["layers"])
        if settings["recipe"] != recipe.for_layers(chunk).dump():
            raise ConfigError(f"{path} was quantized by another recipe; run quantize again, or export with its recipe")
        # The first chunk says which tokens and statistics all must be of; some read no statistics.
        asked.setdefault("tokens", inputs.get("tokens"))
        statistics = {STATISTICS_FILE: s} if (s := inputs.get("calibration", {}).get(STATISTICS_FILE)) else None
        if statistics:
            asked.setdefault("statistics", statistics)
        found = {**inputs, "statistics": statistics or asked.get("statistics")}
        refuse_others(path, {"inputs": found}, asked, "quantize all chunks of this model with one calibration")
        covered += chunk
    if sorted(covered) != list(range(layers)):
        raise ArtifactError(
            f"--qparams cover layers {sorted(covered)}, not each of 0 to {layers - 1} once; pass every chunk once"
        )
    for scheme in schemes(recipe, config):
        if scheme.weights is not None and f"{scheme.prefix}.integers" not in qparams:
            raise ArtifactError(f"no integers for {scheme.where}; run quantize again")
    return str(asked["tokens"])


def as_rescued(qparams: QParams, recipe: Recipe) -> Recipe:
    """The recipe that qparams really hold: with the overrides that `rescue` found, where the recipe asks for it.

    Raises ConfigError for qparams that were not rescued.
    """
    if recipe.rescue is None:
        return recipe
    found = [origin["rescued"] for origin in qparams.metadata.values() if "rescued" in origin]
    if len(found) != 1 or len(qparams.metadata) != 1:
        raise ConfigError("the recipe asks for rescue; give --qparams the one file that the stage rescue wrote")
    if next(iter(qparams.metadata.values()))["asked"] != {"recipe": recipe.dump()}:
        raise ConfigError("--qparams were rescued by another recipe; run rescue again, or export with its recipe")
    return recipe.changed([Override.model_validate(override) for override in found[0]])


def reasons(qparams: QParams, kind: Literal["fallbacks", "warnings"]) -> dict[str, int]:
    """What was done instead of the recipe, or is doubtful, as diagnostics word it, and in how many places of all chunks."""
    found: Counter[str] = Counter()
    for origin in qparams.metadata.values():
        found.update(origin.get(kind, {}))
    return dict(sorted(found.items()))
