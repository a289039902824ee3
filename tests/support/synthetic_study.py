"""Files of a finished study, made up: what `aggregate` reads, with known truths."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ptqflow.artifacts.hashing import sha256
from ptqflow.artifacts.manifests import FileEntry, Manifest
from ptqflow.artifacts.schemas import DIAGNOSTICS, LATENCY, LOSSES, SAMPLES, STATISTICS, STATISTICS_FILE
from ptqflow.artifacts.tables import write_rows
from ptqflow.presets import resolve
from ptqflow.reporting.variants import Served

HARM = {"rtn-w4a16": 0.03, "rtn-w3a16": 0.3, "gptq-w4a16": 0.01, "gptq-w3a16": 0.1, "smoothquant-w8a8": 0.01, "rtn-w4a4kv4": 0.8}
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "block")
LAYERS, CHUNKS = 4, 2
FLOAT, TOKENS = {"model.safetensors": "0" * 64}, "1" * 64  # sha256 of what all was made from
ENGINE = "transformers"


def identity(recipe: str, platform: str = "cpu", model: str = "demo") -> dict[str, Any]:
    """A variant as settings name it."""
    return {"platform": platform, "model": model, "recipe": recipe, "form": None if recipe == "baseline" else "fake"}


def served(recipe: str, platform: str = "cpu", model: str = "demo", engine: str = "transformers") -> Served:
    """A variant in an engine."""
    return Served.model_validate({**identity(recipe, platform, model), "engine": engine})


def sample(task: str, item: str, correct: bool | None, *, seed: int = 0, kind: str = "generation", **more: Any) -> dict[str, Any]:
    """One row of schema SAMPLES."""
    generated = {"finish_reason": "stop"} if kind == "generation" else {}
    row = {"task": task, "kind": kind, "item": item, "seed": seed, "completion": 0, "prompt_sha256": f"{task}/{item}"}
    return row | {"prompt_tokens": 40, "completion_tokens": 255, "seconds": 0.5, "correct": correct, **generated, **more}


def samples(
    harm: float, seed: int, items: int = 60, tasks: Iterable[str] = ("arithmetic", "facts", "text")
) -> list[dict[str, Any]]:
    """One suite at one seed: a sampled generation task, a deterministic choice task, perplexity."""
    rows = []
    if "arithmetic" in tasks:
        chance = np.random.default_rng([seed, 1]).random(items)
        rows += [sample("arithmetic", f"a{i:03d}", bool(chance[i] < 0.85 * (1 - harm)), seed=seed) for i in range(items)]
    if "facts" in tasks:
        chance = np.random.default_rng(2).random(items)
        rows += [
            sample("facts", f"f{i:03d}", bool(chance[i] < 0.9 - 0.6 * harm), seed=seed, kind="choices") for i in range(items)
        ]
    if "text" in tasks:
        nll = np.random.default_rng(3).normal(2.2, 0.3, 20) * 255
        worse = np.random.default_rng(4).normal(harm, 0.1 * harm, 20) * 255
        rows += [sample("text", f"{i:06d}", None, seed=seed, kind="perplexity", nll=nll[i] + worse[i]) for i in range(20)]
    return rows


def diagnostics(harm: float, layers: range) -> list[dict[str, Any]]:
    """Rows of schema DIAGNOSTICS whose errors grow with depth."""
    rows = []
    for layer in layers:
        for module in LINEARS:
            error = 0.05 * harm * (1 + layer) ** 1.3
            weight = None if module == "block" else error / 3
            row = {"layer": layer, "module": module, "weight_error": weight, "output_error": error, "output_mse": 0.4 * error}
            rows.append(row | {"seconds": 0.4, "peak_bytes": 10**8})
    return rows


def channels(layers: int, width: int = 16, far: float = 50.0) -> list[dict[str, Any]]:
    """Rows of schema STATISTICS: all channels alike but channel 3 of site `down`, which is `far` times as large."""
    rows = []
    for layer in range(layers):
        for site in ("qkv", "down"):
            for channel in range(width):
                size = far if (site, channel) == ("down", 3) else 1.0
                row = {"layer": layer, "site": site, "channel": channel, "absmax": 3 * size, "mean_abs": 0.8 * size}
                rows.append(row | {"mean": 0.0, "second_moment": size**2})
    return rows


LATENCY_FACTS = {
    **{"part": None, "workload": None, "kernels": None, "load_seconds": 2.0, "weight_bytes": 10**6, "cache_tokens": 1000},
    **{"flops": 1e9, "moved_bytes": 1e7, "device_flops": 1e12, "device_bandwidth": 1e10},
}


def losses(harm: float, layers: range, steps: int = 5) -> list[dict[str, Any]]:
    """Rows of schema LOSSES: a loss that falls with each step, held out every other one, and condition numbers."""
    rows: list[dict[str, Any]] = []
    for layer in layers:
        for step in range(steps):
            value = 0.02 * harm * (1 + layer) * (1 + 1 / (1 + step))
            rows.append({"layer": layer, "step": step, "measure": "loss", "value": value})
            if step % 2 == 0:
                rows.append({"layer": layer, "step": step, "measure": "held_out_loss", "value": 1.1 * value, "event": "best"})
        for name in ("qkv_left", "k"):
            rows.append({"layer": layer, "step": steps - 1, "measure": "condition_number", "value": 1 + 9 * harm, "event": name})
    return rows


def timings(slowdown: float) -> list[dict[str, Any]]:
    """Rows of schema LATENCY: three repetitions whose median is 1 + slowdown times the baseline's."""
    rows = []
    for phase in ("prefill", "decode"):
        for batch in (1, 8):
            for repetition, noise in enumerate((1.02, 1.0, 0.97)):
                seconds = (0.01 * batch if phase == "prefill" else 0.1 * math.sqrt(batch)) * (1 + slowdown) * noise
                row = {"phase": phase, "batch_size": batch, "prompt_tokens": 64, "new_tokens": 0 if phase == "prefill" else 16}
                rows.append(row | LATENCY_FACTS | {"repetition": repetition, "seconds": seconds, "peak_bytes": 10**8})
            for part, share in (("quantize", 0.1), ("product", 0.6), ("other", 0.3)):
                found = {"part": part, "kernels": "aten::mm" if part == "product" else "", "seconds": 3 * share * seconds}
                rows.append(row | LATENCY_FACTS | {"repetition": 0, "peak_bytes": 10**8} | found)
    return rows


@dataclass
class SyntheticStudy:
    """Files under `root`, with the settings and paths that `aggregate` is told of them."""

    root: Path
    layers: int = LAYERS
    chunks: int = CHUNKS
    settings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    paths: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, kind: str, who: Mapping[str, Any], path: Path) -> Path:
        """Tell `aggregate` of a file."""
        self.settings.setdefault(kind, []).append(dict(who))
        self.paths.setdefault(kind, []).append(path)
        return path

    def _new(self, kind: str) -> Path:
        return self.root / kind / f"{len(self.paths.get(kind, []))}.parquet"

    def scored(self, who: Mapping[str, Any], rows: list[dict[str, Any]], seed: int = 0, engine: str = ENGINE) -> Path:
        """Add a file of samples per task; returns the last."""
        for task in dict.fromkeys(row["task"] for row in rows):
            path = self.add("scores", {**who, "engine": engine, "task": task, "seed": seed}, self._new("scores"))
            settings = {"task": task, "engine": engine, "seed": seed}
            metadata = {"generated": {"settings": settings, "inputs": self.made_from(who)}}
            write_rows(path, SAMPLES, [row for row in rows if row["task"] == task], metadata)
        return path

    def quantized(self, who: Mapping[str, Any], harm: float, steps: int = 5) -> None:
        """Add the diagnostics and losses of each chunk; none of a recipe that takes no steps."""
        for chunk in range(self.chunks):
            place = {key: who[key] for key in ("platform", "model", "recipe")} | {"chunk": chunk}
            width = self.layers // self.chunks
            path = self.add("diagnostics", place, self._new("diagnostics"))
            layers = range(chunk * width, (chunk + 1) * width)
            recipe = resolve({"preset": who["recipe"]}).for_layers(layers).dump()
            settings = {"recipe": recipe, "chunk": chunk, "layers": [layers.start, layers.stop]}
            metadata = {"settings": settings, "inputs": {"model": FLOAT, "tokens": TOKENS}}
            write_rows(path, DIAGNOSTICS, diagnostics(harm, layers), metadata)
            if steps:
                write_rows(self.add("losses", place, self._new("losses")), LOSSES, losses(harm, layers, steps), metadata)

    def collected(self, platform: str, model: str, recipes: list[str]) -> None:
        """Add statistics of channels."""
        folder = self.root / "calibration" / platform / model
        write_rows(folder / STATISTICS_FILE, STATISTICS, channels(self.layers), {})
        Manifest.of_folder(folder, [STATISTICS_FILE], {"inputs": {"model": FLOAT, "tokens": TOKENS}}).write(folder)
        who = {"platform": platform, "model": model, "calibration": "traces", "recipes": recipes}
        self.add("statistics", who, folder / "manifest.json")

    def measured(self, who: Mapping[str, Any], slowdown: float) -> None:
        """Add a file of timings."""
        path = self.add("latency", {**who, "engine": ENGINE, "timing": "quick"}, self._new("latency"))
        write_rows(path, LATENCY, timings(slowdown), {"inputs": self.made_from(who)})

    def exported(self, who: Mapping[str, Any], origin: Mapping[str, int]) -> None:
        """Add a manifest."""
        folder = self.root / "checkpoints" / str(len(self.paths.get("checkpoints", [])))
        folder.mkdir(parents=True)
        made = {"inputs": {"model": FLOAT}, "calibration": TOKENS}
        if who["recipe"] != "baseline":
            made["settings"] = {"recipe": resolve({"preset": who["recipe"]}).dump()}
        Manifest(files={"model.safetensors": FileEntry(bytes=8_000_000, sha256="0" * 64)}, origin=made | origin).write(folder)
        self.add("checkpoints", who, folder / "manifest.json")

    def made_from(self, who: Mapping[str, Any]) -> dict[str, str]:
        """What a file of a variant says that it was made from."""
        listed = zip(self.settings.get("checkpoints", []), self.paths.get("checkpoints", []), strict=True)
        return next(({"checkpoint": sha256(path)} for entry, path in listed if entry == dict(who)), {})

    def arguments(self, tables: Path) -> list[str]:
        """The command line of `aggregate`."""
        files = [part for kind, paths in self.paths.items() for part in (f"--{kind}", *map(str, paths))]
        return ["aggregate", "--settings", json.dumps(self.settings), *files, "--tables", str(tables)]


def whole_study(root: Path, platforms: Iterable[str] = ("cpu",), models: Iterable[str] = ("demo",)) -> SyntheticStudy:
    """Six recipes and the baseline, three tasks, two seeds, two chunks of two blocks."""
    study = SyntheticStudy(root)
    for platform in platforms:
        for model in models:
            for recipe, harm in {"baseline": 0.0, **HARM}.items():
                who = identity(recipe, platform, model)
                packed = {
                    "qparams_bytes": 3_300_000,
                    "packed_bytes": 1_593_750,
                    "linear_weights": 3_000_000,
                    "float_bytes": 6_000_000,
                }
                study.exported(who, {} if recipe == "baseline" else packed)
                for seed in (0, 1):
                    study.scored(who, samples(harm, seed), seed=seed)
                study.measured(who, harm)
                if recipe != "baseline":
                    study.quantized(who, harm)
            study.collected(platform, model, list(HARM))
    return study
