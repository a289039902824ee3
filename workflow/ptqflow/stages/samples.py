"""The viewer of samples: prompts, completions, answers and log-likelihoods, the baseline's beside each variant's.

Prompts are not kept with completions; they are what the task's data says, read again as `generate` recorded that it was asked.
The page is bounded: each variant and task has its share of the room, spent first on what the baseline got right and it got wrong.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ptqflow.artifacts.atomic import canonical_json, write_text
from ptqflow.artifacts.hashing import sha256
from ptqflow.artifacts.provenance import refuse_others
from ptqflow.artifacts.schemas import GENERATIONS, SAMPLES
from ptqflow.artifacts.tables import read_metadata, read_table
from ptqflow.datamodel import Model
from ptqflow.errors import ConfigError
from ptqflow.evaluation import benchmark, fewshot
from ptqflow.progress import progress
from ptqflow.reporting import examples, examples_page
from ptqflow.reporting.variants import BASELINE, Scores
from ptqflow.sources import Source, Sources

_SCORED = ["item", "completion", "completion_tokens", "finish_reason", "extracted", "correct", "unscored"]
_SCORED += ["looping", "open_thinking"]
_SAID = ["item", "completion", "text", "choice_logprobs"]
Answers = dict[str, dict[str, Any]]  # by examples.key


class Settings(Model):
    """What each pair of files is, in the order of the paths; `room` of the page in bytes."""

    scores: tuple[Scores, ...] = ()
    room: int = 15_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--scores", nargs="*", type=Path, default=[], metavar="PARQUET", help="verdicts, from score")
    parser.add_argument(
        "--generations", nargs="*", type=Path, default=[], metavar="PARQUET", help="what they are on, in the same order"
    )
    parser.add_argument("--output", required=True, type=Path, help="HTML file")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Write the page. One variant's answers are in memory at a time, beside the baseline's of the same task."""
    if not len(settings.scores) == len(args.scores) == len(args.generations):
        raise ConfigError("settings.scores, --scores and --generations go one to one; name as many of each")
    files = dict(zip(settings.scores, zip(args.scores, args.generations, strict=True), strict=True))
    asked: dict[tuple[str, str, str, str, int], list[Scores]] = {}
    for entry in files:
        asked.setdefault((entry.platform, entry.model, entry.engine, entry.task, entry.seed), []).append(entry)
    cells = sum(entry.recipe != BASELINE for entry in files)
    groups, questions, baselines = list[dict[str, Any]](), dict[str, Answers](), dict[str, Answers]()
    with progress("samples", len(files), "files") as bar:
        for (platform, model, engine, task, seed), entries in asked.items():
            reference = next((entry for entry in entries if entry.recipe == BASELINE), None)
            others = [entry for entry in entries if entry.recipe != BASELINE]
            if reference is None or not others:
                continue
            bar.update()
            before = _answers(*files[reference])
            questions_of = _questions(files[reference][1])
            name, kept = canonical_json([platform, model, engine, task, seed]), set[str]()
            for entry in others:
                bar.update()
                after = _answers(*files[entry])
                pairs = [(before[key], answer) for key, answer in after.items() if key in before]
                chosen, counts = examples.choose(pairs, settings.room // (2 * cells))  # half for what is beside them
                rows = [(outcome, examples.key(answer), examples.shown(answer)) for outcome, answer in chosen]
                kept |= {key for _, key, _ in rows}
                place, said = f"{model} on {platform}, {engine}", task if seed == 0 else f"{task}, seed {seed}"
                group = {"place": place, "task": said, "variant": entry.label, "counts": counts, "rows": rows}
                groups.append(group | {"asked": name, "baseline": name})
            baselines[name] = {key: examples.shown(before[key]) for key in sorted(kept)}
            items, protocol = questions_of
            questions[name] = {key: examples.question(items[before[key]["item"]], protocol, seed) for key in sorted(kept)}
    write_text(args.output, examples_page.page(groups, questions, baselines))


def _answers(scores: Path, generations: Path) -> Answers:
    """The completions that have a verdict, by item and completion: what was said, and the verdict."""
    asked = {"generations": sha256(generations)}
    refuse_others(scores, read_metadata(scores), asked, "score it again")
    verdicts = {examples.key(row): row for row in read_table(scores, SAMPLES, _SCORED).to_pylist()}
    said = read_table(generations, GENERATIONS, _SAID).to_pylist()
    answers = {(key := examples.key(row)): row | verdicts[key] for row in said}
    return {key: row for key, row in answers.items() if row["correct"] is not None}


def _questions(generations: Path) -> tuple[Mapping[str, Any], str]:
    """The items of a task by id, and in whose words they were asked, as its generations record it."""
    settings = read_metadata(generations)["settings"]
    source = TypeAdapter(Sources).validate_python(settings["source"])
    protocol = settings["protocol"]
    items = benchmark.load_items(settings["task"], settings["benchmark"], source, protocol.get("limit"), lambda _: None)
    if shots := protocol.get("num_fewshot"):
        shown = fewshot.examples(settings["task"], settings["benchmark"], Source.model_validate(protocol["examples"]), shots)
        items = fewshot.behind(items, shown, shots)
    return {item.id: item for item in items}, str(protocol.get("protocol", "paper"))
