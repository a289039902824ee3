"""What each job of a study asks for, by the wildcards of its rule (demands.py has the arithmetic). Import-light."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
        return max([1, *(each.ranks(model) for each in served for model in self.study.models)])

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
        on_device = self._device and stage in ("collect", "quantize", "rescue", "verify", "generate", "measure")
        return replace(demand, threads=DEVICE_THREADS) if on_device else demand

    def check(self, limits: Mapping[bool, Limits]) -> None:
        """Raise ConfigError where a job that holds a model needs more memory than a node has, before anything is submitted.

        `limits`: of jobs without and with a device.
        """
        study = self.study
        for model in study.models:
            jobs = [("collect", {"calibration": study.calibration_of(recipe)}) for recipe in study.chosen]
            for recipe in study.chosen:
                jobs += [
                    ("quantize", {"recipe": recipe, "chunk": "0"}),
                    ("export", {"recipe": recipe}),
                    ("verify", {"recipe": recipe}),
                ]
            for suite in study.suites.values():
                jobs += [("generate", {"engine": suite.engine, "task": t, "seed": str(suite.seeds[0])}) for t in suite.tasks]
            jobs += [("measure", {"timing": timing}) for timing in study.latency]
            for stage, who in jobs:
                name = f"{stage} of {' '.join([model, *who.values()])}"
                within(self.of(stage, {"model": model, **who}), 1, limits.get(stage != "export"), name)

    def _quantize(self, w: Mapping[str, str], d: Dimensions, blocks: int) -> Demand:
        calibration = self.study.calibration_of(w["recipe"])
        recipe, length = self.study.recipes[w["recipe"]], self.study.calibrations[calibration].sequence_length
        return demands.quantize(d, blocks, self._tokens(calibration), recipe, self._device, length)

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
                blocks = ceil(layers * (recipe.rescue.budget if recipe.rescue else 1.0))
                return self._quantize(w, d, blocks)
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
