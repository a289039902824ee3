"""`verify`: prove a checkpoint before anyone deploys it: files, names, integers, weights, bytes, then logits in an engine."""

import argparse
import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from ptqflow.artifacts import schemas
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.provenance import provenance, refuse_others
from ptqflow.artifacts.tables import read_table, write_rows
from ptqflow.checkpoints import registry
from ptqflow.checkpoints.parts import as_rescued, check_parts, reasons
from ptqflow.checkpoints.verification import Finding, findings
from ptqflow.datamodel import Model
from ptqflow.devices.device import PLATFORMS, Device, select
from ptqflow.engines import protocol
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.modeling.qparams import QParams
from ptqflow.modeling.shapes import check_recipe
from ptqflow.modeling.weights import Weights
from ptqflow.recipes import Recipe

WEIGHT_ONLY_LIMIT = 0.01  # mean |difference of log p|, nats: kernels that sum in another order stay far below
NOISE_LIMIT = 1.5  # two independent roundings of the same model differ by √2 of what one of them costs
_SHOWN = 5


class Settings(Model):
    """The complete recipe, the form, and how many calibration sequences of how many tokens the engine scores."""

    recipe: Recipe
    form: str
    engine: str | None = None
    sequences: Annotated[int, Field(ge=1)] = 8
    tokens: Annotated[int, Field(ge=2)] = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--platform", choices=PLATFORMS, default="cpu", help="where to run the engine")
    parser.add_argument("--model", type=Path, required=True, help="manifest.json of the float model")
    parser.add_argument("--qparams", type=Path, required=True, nargs="+", help="qparams.safetensors of every chunk, in any order")
    parser.add_argument("--fake", type=Path, required=True, help="manifest.json of the fake checkpoint of the same recipe")
    parser.add_argument("--checkpoint", type=Path, required=True, help="manifest.json of the checkpoint to verify")
    parser.add_argument("--tokens", type=Path, required=True, help="tokens.parquet of the calibration set: text to score")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file: one row per check")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Write one row per check. Raises ArtifactError naming the tensors or files that failed."""
    recipe, folder = settings.recipe, args.checkpoint.parent
    manifests = {path: Manifest.read(path) for path in (args.model, args.fake, args.checkpoint)}
    for path, manifest in manifests.items():
        manifest.verify(path.parent)
    config, qparams, cache = json.loads((args.model.parent / "config.json").read_text()), QParams(args.qparams), HashCache()
    recipe = as_rescued(qparams, recipe)
    check_recipe(recipe, config, "of --settings", str(args.model.parent))
    tokens = check_parts(qparams, recipe, config, manifests[args.model])
    if cache.sha256(args.tokens) != tokens:
        raise ArtifactError(f"{args.tokens} is not what {args.qparams[0]} was calibrated on; give the tokens of its calibration")
    asked = {
        "model": {name: entry.sha256 for name, entry in manifests[args.model].files.items()},
        "qparams": sorted(cache.sha256(path) for path in args.qparams),
    }
    for path, form in ((args.fake, registry.FAKE), (args.checkpoint, settings.form)):
        refuse_others(path, manifests[path].origin, asked, "export it again")
        if (found := manifests[path].origin["settings"]["form"]) != form:
            raise ConfigError(f"{path} holds form {found}, not {form}; give the manifest of form {form}")
    layout = registry.layout(settings.form)(Weights(args.model.parent), qparams, recipe, config)
    is_fake = settings.form == registry.FAKE
    checks = list(findings(layout, folder, None if is_fake else Weights(args.fake.parent)))
    _refuse_failures(checks, args.checkpoint)
    baseline = _float_bytes(manifests[args.model])
    rows = [_row(check) for check in checks]
    rows.append({"check": "baseline_bytes", "subject": "float model", "status": "passed", "value": float(baseline)})
    rounded = max((check.value or 0.0 for check in checks if check.check == "weight"), default=0.0)
    logits = _logits(settings, args, select(args.platform), rounded)
    _refuse_failures(logits, args.checkpoint)
    rows += [_row(finding) for finding in logits]
    if settings.engine is None:
        note = "no engine of this environment loads the form; `make check-engines` runs it in those that do"
        rows.append({"check": "mean_logprob_difference", "subject": settings.form, "status": "skipped", "note": note})

    for reason, count in reasons(qparams, "fallbacks").items():
        note = f"{count} linears or blocks are not as the recipe says: {reason}"
        rows.append({"check": "fallback", "subject": reason, "status": "noted", "value": float(count), "note": note})

    inputs: dict[str, Any] = {name: cache.sha256(getattr(args, name)) for name in ("model", "fake", "checkpoint", "tokens")}
    inputs["qparams"] = asked["qparams"]
    dump = settings.model_dump(mode="json") | {"recipe": settings.recipe.dump()}
    write_rows(args.output, schemas.VERIFICATION, rows, provenance("verify", dump, args.code or "", inputs=inputs))


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "subject": finding.subject,
        "status": "passed",
        "value": finding.value,
        "limit": finding.limit,
    }


def _refuse_failures(found: list[Finding], checkpoint: Path) -> None:
    failed = [f"{f.subject}: {f.mismatch} ({f.check})" for f in found if f.mismatch]
    if failed:
        more = f"; and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
        raise ArtifactError(
            f"{checkpoint.parent} is not what was quantized: {'; '.join(failed[:_SHOWN])}{more}; delete it and export again"
        )


def _float_bytes(model: Manifest) -> int:
    """Of the float model's weight files: of one that was rotated, as it was before."""
    stored = sum(entry.bytes for name, entry in model.files.items() if name.endswith(".safetensors"))
    return int(model.origin.get("turned_bytes", stored))


def _logits(settings: Settings, args: argparse.Namespace, device: Device, rounded: float) -> list[Finding]:
    """How far the log-probabilities of calibration text are from the fake checkpoint's, in an engine that loads both.

    Weight-only recipes agree to rounding: of sums, and of weights, which the fake checkpoint holds in the model's dtype
    (`rounded`: the largest relative difference of any weight, 1/256 in bfloat16). Rounded activations are not continuous: a last
    bit, or another convention of the scale, moves some of them by a step, which moves more in the next block, until two engines
    differ like two independent roundings. What such a rounding costs is the fake checkpoint's distance from the float model; that
    of weights costs as much less as it is finer than their grid.
    """
    if settings.engine is None:
        return []
    table = read_table(args.tokens, schemas.TOKENS, ["sequence", "tokens"]).sort_by("sequence")
    windows = torch.tensor(table["tokens"].to_pylist()[: settings.sequences])[:, : settings.tokens]

    def scored(manifest: Path) -> torch.Tensor:
        engine = protocol.load(settings.engine or "", manifest.parent, device)
        return torch.cat([nll for _, nll in sorted(engine.score(windows, len(windows)), key=lambda part: part[0][0])])

    fake = scored(args.fake)
    if settings.form == registry.FAKE:
        finite = None if bool(fake.isfinite().all()) else "not finite"
        return [Finding("perplexity", settings.engine, fake.mean().exp().item(), None, finite)]
    limit, recipe = WEIGHT_ONLY_LIMIT, settings.recipe
    share = rounded * 2 ** max(weights.num_bits for weights in recipe.all_weights()) if recipe.is_weight_only() else 1.0
    if share:
        limit += NOISE_LIMIT * share * (fake - scored(args.model)).abs().mean().item()
    differences = (scored(args.checkpoint) - fake).abs()
    mean = differences.mean().item()
    mismatch = None if mean <= limit else f"mean |difference of log p| is {mean:.3g} nats, at most {limit:.3g} expected"
    return [
        Finding("mean_logprob_difference", settings.engine, mean, limit, mismatch),
        Finding("largest_logprob_difference", settings.engine, differences.max().item()),
    ]
