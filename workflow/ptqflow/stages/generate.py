"""Ask one checkpoint, in one engine, all of one task at one seed; keep everything the engine said. Nothing is judged here.

What the engine finished is in a journal beside the output until that is whole, so that a job that was killed, preempted or timed
out goes on where it was. The journal is of all that the output records: one of other code, data, settings, engine, versions or
device is not taken. A job that has loaded a model goes on with what others of this run will ask of it (`planned.py`).
"""

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError, model_validator

from ptqflow import planned
from ptqflow.artifacts.atomic import atomic_path
from ptqflow.artifacts.datasets import data_files
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.journal import Journal
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.schemas import GENERATIONS
from ptqflow.artifacts.tables import read_metadata, write_rows
from ptqflow.datamodel import Model
from ptqflow.digest import code_digest
from ptqflow.engines.registry import forms_batches, module_of
from ptqflow.errors import ConfigError, explain
from ptqflow.evaluation import benchmark, fewshot
from ptqflow.evaluation.items import Item
from ptqflow.sources import Source, Sources, each

if TYPE_CHECKING:
    from ptqflow.devices.device import Device
    from ptqflow.engines.protocol import Engine


class Settings(Model):
    """`protocol`: the keys of `evaluation/requests/<kind>.py`; `seed`: the run seed, from which each completion's own is derived;
    `batch_size` in sequences, None as the engine likes; `tensor_parallel`: devices that share the model's tensors.
    """

    task: str
    benchmark: str
    source: Sources
    protocol: dict[str, Any] = {}
    engine: str = "transformers"
    seed: int = 0
    batch_size: Annotated[int, Field(ge=1)] | None = 64
    tensor_parallel: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _batches(self) -> "Settings":
        if self.batch_size is None and not forms_batches(self.engine):
            raise ValueError(f"batch_size: {self.engine} forms no batches itself; say how many sequences it is asked at once")
        return self


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--platform", required=True, help="where to run: cpu, gpu or ascend")
    parser.add_argument("--checkpoint", required=True, type=Path, help="manifest.json of the model or checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="Parquet file: one row per item and completion, or window")


@dataclass(frozen=True)
class _Question:
    """All of one task at one seed; read before a model is loaded, so that what is wrong with it is said at once."""

    settings: Settings
    kind: str
    requests: ModuleType
    protocol: Any
    items: Sequence[Item]
    checkpoint: Path
    planned_code: str | None
    sources: Sequence[Source]

    @cached_property
    def made_from(self) -> dict[str, Any]:
        """Settings, code and inputs, as the output records them."""
        settings, hashes = self.settings, HashCache()
        found = [f"{benchmark.module_of(settings.benchmark)}:item", f"evaluation.requests.{self.kind}"]
        found = ["stages.generate", module_of(settings.engine), *found]
        inputs = {"checkpoint": hashes.sha256(self.checkpoint)}
        return {
            "settings": settings.model_copy(update={"protocol": self.protocol.model_dump()}).model_dump(mode="json"),
            "code": self.planned_code or code_digest(*(f"ptqflow.{name}" for name in found)),
            "inputs": inputs | {str(file): hashes.sha256(file) for source in self.sources for file in data_files(source)},
        }


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Write what the engine said, sorted by item and completion."""
    question = _question(settings, args.checkpoint, args.code)
    with planned.turn(args.output, own=True):
        if _taken(question, args.output):
            return
        # Here, since a job that takes what another asked needs none of it.
        from ptqflow.devices.device import select
        from ptqflow.engines.protocol import load

        device = select(args.platform)
        Manifest.read(args.checkpoint).verify(args.checkpoint.parent)
        engine = load(settings.engine, args.checkpoint.parent, device, settings.tensor_parallel)
        journal, asked = _ask(question, engine, device, args.output, args.output)
    # A job that goes on with a whole journal was cut off after its own part: what did it would cut it off again.
    if asked:
        for job in planned.others(args.platform, args.checkpoint, settings.engine, settings.tensor_parallel, args.output):
            if not _ask_ahead(job, engine, device):
                break
    journal.remove()


def _question(settings: Settings, checkpoint: Path, code: str | None) -> _Question:
    definition = benchmark.load(settings.benchmark).BENCHMARK
    requests = import_module(f"ptqflow.evaluation.requests.{definition.kind}")
    own = {key: value for key, value in definition.defaults.items() if key in requests.Protocol.model_fields}
    try:
        protocol = requests.Protocol.model_validate(own | settings.protocol)
    except ValidationError as error:
        raise ConfigError(f"--settings: protocol: {explain(error, requests.Protocol)}") from None
    limit = None if definition.kind == "perplexity" else protocol.limit  # a text is limited by windows
    items = benchmark.load_items(settings.task, settings.benchmark, settings.source, limit, partial(print, file=sys.stderr))
    sources = each(settings.source)
    if shots := getattr(protocol, "num_fewshot", 0):
        shown = fewshot.examples(f"task {settings.task}", settings.benchmark, protocol.examples, shots)
        items = fewshot.behind(items, shown, shots)
        sources = [*sources, protocol.examples]
    return _Question(settings, definition.kind, requests, protocol, items, checkpoint, code, sources)


def _journal(output: Path, metadata: dict[str, Any]) -> Journal:
    return Journal(output.with_name(f"{output.name}.parts"), metadata)


def _ask(question: _Question, engine: "Engine", device: "Device", output: Path, file: Path) -> tuple[Journal, int]:
    """Ask what the journal of `output` lacks, and write `file`. Returns the journal, and how much was asked."""
    settings, made_from = question.settings, question.made_from
    code, inputs = made_from["code"], made_from["inputs"]
    served = engine.settings()
    metadata = provenance("generate", made_from["settings"], code, device=device.name, engine=served, inputs=inputs)
    journal = _journal(output, metadata)
    asked = question.protocol, settings.seed, settings.batch_size
    rows = question.requests.generate(settings.task, question.items, engine, *asked, journal)
    if broken := sum(map(_broken, rows)):
        print(f"{settings.task}: the model's logits are not finite in {broken} of {len(rows)} rows", file=sys.stderr)
    who = {"task": settings.task, "kind": question.kind, "seed": settings.seed}
    rows.sort(key=lambda row: (row["item"], row["completion"]))
    write_rows(file, GENERATIONS, [who | row for row in rows], journal.made_from)
    return journal, journal.added


def _taken(question: _Question, output: Path) -> bool:
    """Whether another job of this run has asked this question, and its answer is the output now."""
    answer = planned.answer(output)
    if answer is None or not answer.is_file():
        return False
    metadata = read_metadata(answer)
    if any(metadata[key] != value for key, value in question.made_from.items()):
        return False
    print(f"{question.settings.task}: a job that had loaded the model has asked this, too", file=sys.stderr)
    with atomic_path(output) as temporary:
        shutil.copyfile(answer, temporary)
    _journal(output, metadata).remove()
    return True


def _ask_ahead(job: planned.Ask, engine: "Engine", device: "Device") -> bool:
    """Ask what another job will ask, unless somebody has begun to. Returns whether the engine can be asked more."""
    with planned.turn(job.output, own=False) as free:
        answer = planned.answer(job.output)
        if not free or answer is None:
            return True
        try:
            if job.code != code_digest(*(f"ptqflow.{name}" for name in job.code.rpartition(":")[0].split("+"))):
                return False  # edited since this run was planned; its own job says so
            question = _question(Settings.model_validate(job.settings), Path(job.checkpoint), job.code)
            _ask(question, engine, device, Path(job.output), answer)
        except Exception as error:
            print(f"{job.output} is left to its own job, which says more: {error}", file=sys.stderr)
            return False
        return True


def _broken(row: dict[str, Any]) -> bool:
    numbers = [*row.get("choice_logprobs", []), row.get("nll", 0.0)]
    return row.get("finish_reason") == "not_finite" or any(map(math.isnan, numbers))
