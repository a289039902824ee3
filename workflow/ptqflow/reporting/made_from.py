"""The provenance table: models, data, recipes and software that the study's own files record, and how many record each."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ptqflow.artifacts.atomic import canonical_json
from ptqflow.reporting.render import TextTable
from ptqflow.reporting.variants import BASELINE

Record = Mapping[str, Any]
KINDS = ("model", "calibration", "task", "recipe", "software")


def build(manifests: Sequence[tuple[Any, Record]], files: Sequence[tuple[str, str, Record]]) -> list[dict[str, Any]]:
    """Rows of schema PROVENANCE. `manifests`: variants, and the origin of each; `files`: platform, stage and record."""
    found = Counter[tuple[str, str, str]]()
    stated = {variant.model: origin["license"] for variant, origin in manifests if "license" in origin}
    for variant, origin in manifests:
        if variant.recipe == BASELINE:
            licence = f", licence {stated[variant.model]}" if variant.model in stated else ""
            found["model", variant.model, _words(origin.get("source", {})) + licence] += 1
        elif not variant.replicate:
            found["recipe", variant.recipe, canonical_json(origin.get("settings", {}).get("recipe"))] += 1
        if drawn := origin.get("calibration_set"):
            found["calibration", _named(drawn["settings"]), f"{_words(drawn['settings'])}; {_digests(drawn['data'])}"] += 1
    for platform, stage, record in files:
        if record.get("generated"):
            asked = record["generated"].get("settings", {})
            said = {key: value for key, value in asked.items() if key not in ("task", "seed", "batch_size")}
            found["task", str(asked.get("task")), _words(said | {"scored": record.get("settings", {}).get("metric")})] += 1
        for made in filter(None, (record.get("generated"), record)):
            found["software", f"{platform}: {made.get('stage', stage)}", _software(made)] += 1
    rows = [{"kind": kind, "name": name, "detail": detail, "files": n} for (kind, name, detail), n in found.items()]
    return sorted(rows, key=lambda row: (KINDS.index(row["kind"]), row["name"], row["detail"]))


def _named(calibration: Record) -> str:
    source = calibration["source"]
    return str(source.get("repo") or source.get("path") or source.get("file"))


def _words(entry: Record) -> str:
    """`repo x, revision y`: what is set, in order."""
    said = {name: value for name, value in entry.items() if value not in (None, {}, [])}
    inner = ((name, f"({_words(value)})" if isinstance(value, Mapping) else value) for name, value in said.items())
    return ", ".join(f"{name} {value}" for name, value in inner)


def _digests(data: Record) -> str:
    return ", ".join(f"{name} sha256 {digest[:16]}" for name, digest in data.items()) or "at its revision"


def _software(made: Record) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in made.get("versions", {}).items())
    digest = str(made.get("code", "")).rpartition(":")[2]
    parts = [f"device {made['device']}" if made.get("device") else "", versions, f"code {digest}" if digest else ""]
    return "; ".join(filter(None, parts)) or "nothing recorded"


def printed(rows: Iterable[Record]) -> list[TextTable]:
    """One table per kind."""
    titles = {"model": "Models", "calibration": "Calibration sets", "task": "Tasks", "recipe": "Recipes", "software": "Software"}
    header = ["Name", "Detail", "Files"]
    lines = {kind: [[r["name"], r["detail"], str(r["files"])] for r in rows if r["kind"] == kind] for kind in titles}
    grids = [TextTable(titles[kind], header, body, names=2) for kind, body in lines.items() if body]
    return grids or [TextTable("Provenance", header, [], names=2, notes=["The study has no files yet."])]
