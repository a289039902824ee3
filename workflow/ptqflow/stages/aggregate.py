"""Tables across models, recipes and tasks, from the samples, diagnostics, timings and manifests of a study.

Settings say what each input file is, in the order of the paths on the command line: nothing is read from a path's name.
Outputs, in the folder `--tables`, are the tables of `reporting/catalogue.py` in their renderings. All are always written; a kind
of input that the study lacks gives a table without rows.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ptqflow.artifacts.atomic import write_text
from ptqflow.artifacts.evidence_schemas import OVERLAP, RESCUE
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.schemas import DIAGNOSTICS, LATENCY, LOSSES, SAMPLES, SELFTEST, STATISTICS, STATISTICS_FILE, VERIFICATION
from ptqflow.artifacts.study_tables import SCHEMA_OF
from ptqflow.artifacts.tables import read_metadata, read_table, to_table, write_table
from ptqflow.checkpoints import registry as checkpoints
from ptqflow.checkpoints.server import command, vllm_on
from ptqflow.datamodel import Model
from ptqflow.decide import Decide
from ptqflow.errors import ConfigError
from ptqflow.progress import progress
from ptqflow.recipes import Recipe
from ptqflow.replicates import is_drawn
from ptqflow.reporting import (
    accuracy,
    answer,
    answer_text,
    catalogue,
    collapse,
    comparison,
    cost,
    flips,
    formats,
    latency,
    latency_parts,
    layer_error,
    learning,
    made_from,
    noise,
    origins,
    outliers,
    overlap,
    paged,
    published,
    render,
    rescue,
    runs,
    sizes,
    verification,
)
from ptqflow.reporting.variants import (
    BASELINE,
    Chunk,
    Collected,
    Probed,
    Rescued,
    Scores,
    Timing,
    Variant,
    refuse_duplicates,
)

_OF_SAMPLES = list(dict.fromkeys([*runs.READS, *collapse.READS, *cost.READS]))
KINDS = (
    *("scores", "diagnostics", "losses", "latency", "checkpoints", "verification", "selftest", "overlaps", "rescues"),
    "statistics",
)
_MANIFESTS = ("checkpoints", "statistics")  # the kinds whose files are manifests


class Settings(Model):
    """What each input file is, one entry per path and in the same order; `seed` is that of the bootstrap;
    `names`: which of the study's names stand for published ones; `decide`: the constraints that the answer is given under.
    """

    scores: tuple[Scores, ...] = ()
    diagnostics: tuple[Chunk, ...] = ()
    losses: tuple[Chunk, ...] = ()
    latency: tuple[Timing, ...] = ()
    checkpoints: tuple[Variant, ...] = ()
    verification: tuple[Variant, ...] = ()
    overlaps: tuple[overlap.Pair, ...] = ()
    selftest: tuple[Probed, ...] = ()
    rescues: tuple[Rescued, ...] = ()
    statistics: tuple[Collected, ...] = ()
    seed: int = 0
    names: published.Ours = published.Ours()
    decide: Decide = Decide()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input files by kind, and the folder of the tables."""
    parser.add_argument("--scores", nargs="*", type=Path, default=[], metavar="PARQUET", help="verdicts, from score")
    parser.add_argument("--diagnostics", nargs="*", type=Path, default=[], metavar="PARQUET", help="errors, from quantize")
    parser.add_argument("--losses", nargs="*", type=Path, default=[], metavar="PARQUET", help="of learning, from quantize")
    parser.add_argument("--latency", nargs="*", type=Path, default=[], metavar="PARQUET", help="timings, from measure")
    parser.add_argument("--checkpoints", nargs="*", type=Path, default=[], metavar="MANIFEST", help="from fetch and export")
    parser.add_argument("--verification", nargs="*", type=Path, default=[], metavar="PARQUET", help="checks, from verify")
    parser.add_argument("--overlaps", nargs="*", type=Path, default=[], metavar="PARQUET", help="shared text, from overlap")
    parser.add_argument("--rescues", nargs="*", type=Path, default=[], metavar="PARQUET", help="attempts, from rescue")
    parser.add_argument("--statistics", nargs="*", type=Path, default=[], metavar="MANIFEST", help="of channels, from collect")
    parser.add_argument("--reference", nargs="*", type=Path, default=[], metavar="CSV", help="published numbers")
    parser.add_argument("--selftest", nargs="*", type=Path, default=[], metavar="PARQUET", help="probes, from selftest")
    parser.add_argument(
        "--tables",
        required=True,
        type=Path,
        help="folder: accuracy, cost, layer_error, latency, sizes, verification, overlap, published, ... as .parquet, .csv, ...",
    )


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Write all tables and print the accuracy table."""
    for kind in KINDS:
        listed, paths = getattr(settings, kind), getattr(args, kind)
        if len(listed) != len(paths):
            raise ConfigError(f"settings.{kind} names {len(listed)} files, --{kind} gives {len(paths)}; they go one to one")
        refuse_duplicates(kind, listed)
    paths = [path for kind in KINDS for path in getattr(args, kind)]
    with progress("aggregate", len(paths), "files") as bar:

        def read(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
            bar.update()
            return read_table(path, schema, columns)

        scored = [(entry, read(path, SAMPLES, _OF_SAMPLES)) for entry, path in zip(settings.scores, args.scores, strict=True)]
        errors = [(c, read(path, DIAGNOSTICS)) for c, path in zip(settings.diagnostics, args.diagnostics, strict=True)]
        learned = [(c, read(path, LOSSES)) for c, path in zip(settings.losses, args.losses, strict=True)]
        timings = [(t, read(path, LATENCY)) for t, path in zip(settings.latency, args.latency, strict=True)]
        verified = [(v, read(path, VERIFICATION)) for v, path in zip(settings.verification, args.verification, strict=True)]
        shared = [(pair, read(path, OVERLAP)) for pair, path in zip(settings.overlaps, args.overlaps, strict=True)]
        probes = [row for path in args.selftest for row in read(path, SELFTEST).to_pylist()]
        climbed = [(r, read(path, RESCUE)) for r, path in zip(settings.rescues, args.rescues, strict=True)]
        manifests = [(v, Manifest.read(path)) for v, path in zip(settings.checkpoints, args.checkpoints, strict=True)]
        bar.update(len(manifests))
        collected = [Manifest.read(path) for path in args.statistics]
        inputs_of = [
            (who, read(_statistics(path, manifest), STATISTICS, outliers.READS))
            for who, path, manifest in zip(settings.statistics, args.statistics, collected, strict=True)
        ]

    recorded = {path: read_metadata(path) for kind in KINDS if kind not in _MANIFESTS for path in getattr(args, kind)}
    recorded |= {path: manifest.origin for path, manifest in zip(args.statistics, collected, strict=True)}
    _check_origins(settings, args, manifests, recorded)
    cache = HashCache()
    inputs = {str(path): cache.sha256(path) for path in paths}
    inputs |= {path.name: cache.sha256(path) for path in args.reference}  # by name: they lie with the code, wherever that is
    metadata = provenance("aggregate", settings.model_dump(mode="json"), args.code or "", inputs=inputs)

    def write(name: str, rows: Sequence[dict[str, Any]], grids: Sequence[render.TextTable]) -> None:
        schema = SCHEMA_OF[name]
        table = to_table(schema, rows)
        for suffix in catalogue.TABLES[name]:
            path = args.tables / f"{name}.{suffix}"
            if suffix == "parquet":
                write_table(path, table, schema, metadata)
            elif suffix == "csv":
                write_text(path, render.csv(table))
            else:
                write_text(path, render.GRIDS[suffix](grids))

    def publish(name: str, rows: Sequence[dict[str, Any]]) -> list[render.TextTable]:
        grids = paged.grids(name, rows)
        write(name, rows, grids)
        return grids

    samples = [(entry.served, table) for entry, table in scored if entry.batch_size is None]
    gathered = runs.gather(samples)
    recipes = _recipes(manifests)
    exact = {served for served in gathered if served.variant in recipes and not is_drawn(recipes[served.variant])}
    floors = noise.build(gathered, noise.repeated(scored))
    publish("noise", floors)
    scores = noise.beside(accuracy.build(gathered, settings.seed, exact, settings.decide.max_drop), floors)
    touched = overlap.touched(shared)
    overlap.mark(scores, touched)
    grids = publish("accuracy", scores)
    ends = collapse.build(samples, settings.seed)
    publish("collapse", ends)
    changed = flips.build(samples)
    publish("flips", changed)
    # Draws of a recipe are joined: its format is that of its own, which comes last, or of another where that is not there.
    drawn = sorted(recipes.items(), key=lambda entry: entry[0].replicate, reverse=True)
    costing = {variant.model_copy(update={"replicate": 0}): formats.format_of(recipe) for variant, recipe in drawn}
    publish("comparison", comparison.build(gathered, settings.seed, exact, costing))
    costs = cost.build(samples)
    publish("cost", costs)
    layers = layer_error.build(errors)
    publish("layer_error", layers)
    publish("outliers", outliers.build(inputs_of))
    steps = learning.build(learned)
    publish("learning", steps)
    attempts = rescue.build(climbed)
    publish("rescue", attempts)
    times = latency.build(timings)
    publish("latency", times)
    pieces = latency_parts.build(timings)
    publish("latency_parts", pieces)
    weights = sizes.build([(variant, manifest) for variant, manifest in manifests if not variant.replicate])
    publish("sizes", weights)
    checked = verification.build(verified)
    publish("verification", checked)
    seen = overlap.build(shared)
    publish("overlap", seen)
    known = published.build([row for path in args.reference for row in published.read(path)], scores, settings.names)
    publish("published", known)
    publish("selftest", probes)
    made = made_from.build(
        [(variant, manifest.origin) for variant, manifest in manifests], _records(settings, args, manifests, recorded)
    )
    publish("provenance", made)
    serving = _serving(manifests, args.checkpoints)
    noted = {(v.platform, v.model, v.recipe, v.form): manifest.origin for v, manifest in manifests if not v.replicate}
    same = {(served.platform, served.model, served.recipe) for served in exact}
    costs_of = {tuple(variant.columns.values()): cost for variant, cost in costing.items()}
    told = answer.Tables(scores, weights, times, checked, layers, attempts, ends, serving, same, touched, noted, costs_of)
    answers = answer.build(told, settings.decide)
    write("answer", answers, answer_text.printed(answers))
    print(render.markdown(grids[:1]))


def _statistics(path: Path, manifest: Manifest) -> Path:
    """The statistics beside the manifest of `collect`, as it says that they are."""
    manifest.verify(path.parent, [STATISTICS_FILE])
    return path.parent / STATISTICS_FILE


def _records(
    settings: Settings,
    args: argparse.Namespace,
    manifests: Sequence[tuple[Variant, Manifest]],
    recorded: Mapping[Path, Mapping[str, Any]],
) -> list[tuple[str, str, Mapping[str, Any]]]:
    """What every file of a platform says of how it was made: (platform, kind, record)."""
    kinds = ("scores", "diagnostics", "latency", "verification", "rescues")
    entries = [(e.platform, kind, p) for kind in kinds for e, p in zip(getattr(settings, kind), getattr(args, kind), strict=True)]
    made = [(variant.platform, "fetch or export", manifest.origin) for variant, manifest in manifests]
    return [*made, *((platform, kind, recorded[path]) for platform, kind, path in entries)]


def _serving(manifests: Sequence[tuple[Variant, Manifest]], paths: Sequence[Path]) -> dict[tuple[Any, ...], str]:
    """How each checkpoint is served from where it lies, as its form says; only what an engine serves has a command."""
    found = {}
    for (variant, manifest), path in zip(manifests, paths, strict=True):
        if variant.replicate:
            continue
        key, server = (variant.platform, variant.model, variant.recipe, variant.form), vllm_on(variant.platform)
        if variant.form is None:
            line: str | None = command(str(path.parent), server)
        else:
            recipe = Recipe.model_validate(manifest.origin["settings"]["recipe"])
            line = checkpoints.scheme(variant.form).serve(recipe, str(path.parent), server)
        if line:
            found[key] = line
    return found


def _recipes(manifests: Sequence[tuple[Variant, Manifest]]) -> dict[Variant, Recipe]:
    """The recipe of each checkpoint, as its manifest says; of one that was rescued, with what was found."""
    origins = {variant: manifest.origin for variant, manifest in manifests if variant.recipe != BASELINE}
    found = {v: {"overrides": origin["rescued"]} if "rescued" in origin else {} for v, origin in origins.items()}
    return {v: Recipe.model_validate(origin["settings"]["recipe"] | found[v]) for v, origin in origins.items()}


def _check_origins(
    settings: Settings,
    args: argparse.Namespace,
    manifests: Sequence[tuple[Variant, Manifest]],
    recorded: Mapping[Path, Mapping[str, Any]],
) -> None:
    """Refuse files that were not made from the checkpoints they are shown beside, or not asked alike; `recorded`: by file."""
    checkpoints = {entry: (path, found) for path, (entry, found) in zip(args.checkpoints, manifests, strict=True)}
    origins.of_one_study(checkpoints)
    scores = [(entry, path, recorded[path]) for entry, path in zip(settings.scores, args.scores, strict=True)]
    origins.asked_alike(scores)
    for entry, path, metadata in scores:
        origins.of_checkpoint(entry, path, metadata.get("generated", {}), checkpoints)
    for kind in ("latency", "verification"):
        for entry, path in zip(getattr(settings, kind), getattr(args, kind), strict=True):
            origins.of_checkpoint(entry, path, recorded[path], checkpoints)
    for kind in ("diagnostics", "losses"):
        for chunk, path in zip(getattr(settings, kind), getattr(args, kind), strict=True):
            origins.of_chunk(chunk, path, recorded[path], checkpoints)
    for who, path in zip(settings.statistics, args.statistics, strict=True):
        origins.of_collected(who, path, recorded[path], checkpoints)
