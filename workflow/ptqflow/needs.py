"""What each job of a study asks for, by the wildcards of its rule (demands.py has the arithmetic). Import-light."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil

from ptqflow import demands, paths
from ptqflow.chunks import chunk_layers
from ptqflow.demands import UNKNOWN, Demand, Dimensions
from ptqflow.entries import Suite
from ptqflow.errors import ConfigError
from ptqflow.slurm import Limits
from ptqflow.study import Study, config_of, layers_of

SNAKEMAKE_MB = 300  # of the two Snakemakes that run a job on a node, which a scheduler counts as the job's
DEVICE_THREADS = 8  # of a job that computes on a device: its inverses and its files are the host's

COMPUTES = ("collect", "quantize", "rescue", "verify", "generate", "measure")  # stages that need a device, where there is one


def name_of(stage: str, who: Iterable[str]) -> str:
    """A job by its stage and the values of its wildcards, for people."""
    return f"{stage} of {' '.join(who) or 'the study'}"


def within(demand: Demand, attempt: int, limits: Limits | None, who: str) -> Demand:
    """A demand at an attempt, within what one node can give.

    Raises ConfigError where the first attempt's memory is more than any node has: the job would wait for ever.
    """
    if limits is None:
        return demand.at(attempt)
    needed = replace(demand, mem_mb=demand.mem_mb + SNAKEMAKE_MB)
    if needed.mem_mb > limits.mem_mb and demand is not UNKNOWN:
        raise ConfigError(
            f"{who} needs some {needed.mem_mb} MB, but no node of partition {limits.partition} has more than {limits.mem_mb}; "
            "use more chunks, a smaller batch_size, fewer samples or another partition"
        )
    asked = needed.at(attempt)
    minutes = asked.minutes if limits.minutes is None else min(asked.minutes, limits.minutes)
    return Demand(min(asked.threads, limits.cpus), min(asked.mem_mb, limits.mem_mb), minutes)


@dataclass(frozen=True)
class Needs:
    """Demands of every job of a study, at its first attempt."""

    study: Study
    _known: dict[str, Dimensions] = field(default_factory=dict)

    @property
    def _device(self) -> bool:
        return self.study.platform != "cpu"

    def _dimensions(self, model: str) -> Dimensions | None:
        """Those of a model; None while a hub model is not here."""
        name = model.partition(".")[0]
        if name not in self._known and (config := config_of(self.study, name)) is not None:
            self._known[name] = Dimensions.of(config, self._device)
        return self._known.get(name)

    def _tokens(self, calibration: str) -> int:
        entry = self.study.calibrations[calibration]
        return entry.samples * entry.sequence_length

    def ranks(self, stage: str, w: Mapping[str, str]) -> int:
        """Devices that share the model of a stage's job; 1 where none is asked to."""
        if stage == "generate":
            return self._suite(w).ranks(w["model"])
        return self.study.latency[w["timing"]].ranks(w["model"]) if stage == "measure" else 1

    @property
    def most_ranks(self) -> int:
        """Devices that the widest job of the study asks for."""
        served = [*self.study.suites.values(), *self.study.latency.values()]
        return max([1, *(entry.ranks(model) for entry in served for model in self.study.models)])

    def _suite(self, w: Mapping[str, str]) -> Suite:
        return self.study.suite_of(w["engine"], w["task"], int(w["seed"]))

    def of(self, stage: str, w: Mapping[str, str]) -> Demand:
        """Of a stage's job with these wildcards."""
        if stage in ("fetch", "tokens", "overlap", "aggregate", "plot", "samples", "report"):
            return demands.small()
        if stage == "selftest":
            return demands.small("torch")
        if stage == "score":
            return demands.small("scoring")
        if (d := self._dimensions(w["model"])) is None:
            return UNKNOWN
        demand = demands.shared(self._of(stage, w, d), self.ranks(stage, w))
        return replace(demand, threads=DEVICE_THREADS) if self._device and stage in COMPUTES else demand

    def check(self, limits: Mapping[bool, Limits]) -> None:
        """Raise ConfigError where a job that holds a model needs more memory than a node has, before anything is submitted.

        `limits`: of jobs without and with a device.
        """
        for stage, who in self.jobs():
            within(self.of(stage, who), 1, limits.get(stage in COMPUTES), name_of(stage, who.values()))

    def largest(self) -> tuple[str, Demand]:
        """The job that asks for most memory, as `name_of` calls it, and what it asks for; without recipes and tasks, `fetch`."""
        found = [(name_of(stage, who.values()), self.of(stage, who)) for stage, who in self.jobs()]
        fetch = (name_of("fetch", list(self.study.models)[:1]), demands.small())
        return max(found, key=lambda job: job[1].mem_mb, default=fetch)

    def jobs(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Stage and wildcards of the jobs that hold a model; one of those that ask for the same."""
        study = self.study
        for model in study.models:
            for recipe in study.chosen:
                source, of_recipe = study.source_of(model, recipe), {"model": model, "recipe": recipe}
                if source != model:
                    yield "rotate", {"model": source}
                yield "collect", {"model": source, "calibration": study.calibration_of(recipe)}
                yield "quantize", of_recipe | {"chunk": "0"}  # no other chunk is longer
                if study.recipes[recipe].rescue is not None:
                    yield "rescue", of_recipe
                yield "export", of_recipe
                yield "verify", of_recipe
            for suite in study.suites.values():
                batches = ["baseline", *map(paths.repeated, suite.noise_batch_sizes)]
                for variant, task in product(batches, suite.tasks):
                    who = {"model": model, "variant": variant, "engine": suite.engine, "task": task}
                    yield "generate", who | {"seed": str(suite.seeds[0])}
            for timing in study.latency:
                yield "measure", {"model": model, "timing": timing}

    def _of(self, stage: str, w: Mapping[str, str], d: Dimensions) -> Demand:
        study, device = self.study, self._device
        match stage:
            case "rotate":
                return demands.rotate(d)
            case "collect":
                return demands.collect(d, self._tokens(w["calibration"]), device)
            case "quantize":
                chunks = chunk_layers(layers_of(study, w["model"]), study.models[w["model"]].chunks)
                return self._quantize(w, d, len(chunks[int(w["chunk"])]))
            case "rescue":
                layers, recipe = layers_of(study, w["model"]), study.recipes[w["recipe"]]
                return self._quantize(w, d, ceil(layers * (recipe.rescue.budget if recipe.rescue else 1.0)))
            case "export":
                return demands.export(d)
            case "verify":
                return demands.verify(d, device)
            case "generate":
                suite = self._suite(w)
                size = paths.batch_size(w.get("variant", "baseline")) or suite.batch_size
                return demands.generate(d, study.tasks[w["task"]].asks, size, device)
            case "measure":
                timing = study.latency[w["timing"]]
                longest = timing.longest()
                tokens = longest.prompt_tokens + longest.new_tokens
                runs = len(timing.shapes()) * (timing.warmup + timing.repetitions)
                return demands.measure(d, max(timing.batch_sizes), tokens, runs, device)
        raise AssertionError(f"stage {stage} has no demand")

    def _quantize(self, w: Mapping[str, str], d: Dimensions, blocks: int) -> Demand:
        calibration = self.study.calibration_of(w["recipe"])
        length = self.study.calibrations[calibration].sequence_length
        return demands.quantize(d, blocks, self._tokens(calibration), length, self.study.recipes[w["recipe"]], self._device)
