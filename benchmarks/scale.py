"""What a whole study asks of a cluster: writes docs/scale.md from measured rates and stated assumptions.

    python benchmarks/scale.py [--measured results/bench/gpu.parquet] [--workers results/bench/workers.parquet]

Each job of the study gets seconds on one device by the rates of a measured device and the arithmetic of `ptqflow/estimate.py`;
a list schedule over 8 and 64 devices, in the order in which jobs become ready, gives the wall-clock. Nothing of it was run.
MEASURED: what `benchmarks/gpu.py` writes, or the same columns as CSV.
"""

import argparse
import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import yaml
from peer_models import OF_7B
from ptqflow import estimate
from ptqflow.checked import load
from ptqflow.chunks import chunk_layers
from ptqflow.estimate import Size
from ptqflow.presets import resolve
from ptqflow.recipes import Recipe
from ptqflow.study import Study

ROOT = Path(__file__).resolve().parents[1]
DEVICES = (8, 64)
SLOWER = 2.5  # an NPU beside the measured device: 1.6 TB/s nominal beside 4.0 TB/s copied
OVERHEAD_S = 20.0  # of a job in a queue (docs/cluster.md: 10 to 20 s)
START_S = 30.0  # of an engine: imports, compilation, graphs
DISK = 1e9  # bytes per second that a checkpoint is read or written with
SEQUENCES = 128  # that an engine decodes at once
FILLED = 0.9  # of a device's memory, with weights and cache
SHARE = 0.5  # of the copied bytes per second that decoding reaches
DEVICE_BYTES = 64e9  # of which a model leaves half for the cache, or is shared by two
# Tokens of a reasoning model's answer, in the mean, and items where the data are not here.
ANSWERS = {"aime-90": (90, 12e3), "aime-2025": (30, 12e3), "math-500": (500, 4e3), "gsm8k": (1319, 1.2e3), "gpqa": (198, 8e3)}
ANSWERS |= {"livecodebench": (268, 10e3)}
# Sequences of an item, and tokens of each; a text's windows are of the model's own.
SCORED = {"arc-challenge": (1172, 4, 60), "arc-easy": (2376, 4, 50), "hellaswag": (10042, 4, 100), "lambada": (5153, 1, 90)}
SCORED |= {"piqa": (1838, 2, 60), "winogrande": (1267, 2, 40), "wikitext": (1, 1, 300_000)}
QWEN2 = {"model_type": "qwen2", "vocab_size": 152064, "tie_word_embeddings": False}
CONFIGS: dict[str, dict[str, Any]] = {  # as their config.json on the hub
    "r1-1b5": QWEN2 | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "vocab_size": 151936},
    "r1-7b": QWEN2 | {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28},
    "r1-14b": QWEN2 | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48},
    "qwq-32b": QWEN2 | {"hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64},
    "llama-3-8b": QWEN2
    | {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256},
}
HEADS = {"r1-1b5": (12, 2), "r1-7b": (28, 4), "r1-14b": (40, 8), "qwq-32b": (40, 8), "llama-3-8b": (32, 8)}
for name, (heads, keys) in HEADS.items():
    CONFIGS[name] |= {"num_attention_heads": heads, "num_key_value_heads": keys}


@dataclass(frozen=True)
class Job:
    """`devices` that it holds for `seconds` of its own, after the jobs of these keys."""

    key: tuple[str, ...]
    seconds: float
    devices: int
    after: tuple[tuple[str, ...], ...]

    @property
    def stage(self) -> str:
        """Its rule."""
        return self.key[0]


class Rates:
    """Of the measured device, slowed down to the assumed one."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        found = {row["what"]: row["value"] for row in rows}
        of_7b = {"hidden_size": OF_7B.hidden, "intermediate_size": OF_7B.intermediate, "num_hidden_layers": 1}
        size = Size.of(QWEN2 | of_7b | {"num_attention_heads": OF_7B.heads, "num_key_value_heads": OF_7B.key_heads})
        self.tokens = OF_7B.sequences * OF_7B.length
        work = 2 * size.block * self.tokens
        self.block = size.block
        self.seconds = {name: found[f"{name}-w4a16: seconds per block"] * SLOWER for name in ("rtn", "gptq", "awq")}
        one, two = (SLOWER * found[f"flatquant-w4a4kv4, {epochs}: seconds per block"] for epochs in ("1 epoch", "2 epochs"))
        self.epoch, self.beside = two - one, 2 * one - two
        self.flops = estimate.passes(resolve({"preset": "awq-w4a16"})) * work / self.seconds["awq"]
        self.bandwidth = 1e12 * found["copy, bytes read and written"] * SHARE / SLOWER
        float_ms, fake_ms = (found[f"{what}, 8 x 512 tokens: decode"] for what in ("bfloat16", "W8A8 fake (emulation)"))
        self.emulation = fake_ms / float_ms

    def of_block(self, recipe: Recipe, size: Size, tokens: int) -> float:
        """Seconds of quantizing one block: as measured, by its weights and tokens; what was not measured, by its passes."""
        scale = size.block / self.block * tokens / self.tokens
        if recipe.rounding.name == "gptq":
            return self.seconds["gptq"] * scale
        if recipe.transform.name == "flatquant":
            return self.learned(recipe) * scale
        if recipe.transform.name == "awq":
            return self.seconds["awq"] * scale
        if not recipe.learns_from_states():
            return self.seconds["rtn"] * scale
        return estimate.passes(recipe) * 2 * size.block * tokens / self.flops

    def learned(self, recipe: Recipe) -> float:
        """Seconds of the measured block by FlatQuant: its epochs' steps, and what is beside them."""
        return self.beside + recipe.transform.epochs * self.epoch

    def decoding(
        self, size: Size, config: Mapping[str, Any], recipe: Recipe | None, items: int, answer: float, ranks: int
    ) -> float:
        """Seconds of answering: each step reads the weights once and the cache of every sequence at its middle length."""
        head = config["hidden_size"] // config["num_attention_heads"]
        cache = 4 * head * config["num_key_value_heads"] * config["num_hidden_layers"] * answer / 2
        at_once = min(items, SEQUENCES, int((FILLED * ranks * DEVICE_BYTES - size.bytes) / cache))
        steps = answer * -(-items // at_once)
        emulated = recipe is not None and (recipe.scheme.input_activations is not None or recipe.scheme.kv_cache is not None)
        seconds = steps * (size.bytes + at_once * cache) / (ranks * self.bandwidth)
        return seconds * (self.emulation if emulated else 1.0)


def jobs(study: Study, rates: Rates) -> Iterable[Job]:
    """Every job that takes a device or long."""
    for model, entry in study.models.items():
        config = CONFIGS[model]
        size = Size.of(config)
        ranks = 2 if size.bytes > DEVICE_BYTES / 2 else 1
        calibration = study.calibrations[study.calibration]
        tokens = calibration.samples * calibration.sequence_length
        fetched, collected = ("fetch", model), ("collect", model)
        yield Job(fetched, size.bytes / 1e8, 0, ())
        yield Job(collected, 2 * size.linears * tokens / rates.flops + size.bytes / DISK, 1, (fetched,))
        yield from _asked(study, rates, model, None, ranks, fetched)
        for name in study.chosen:
            recipe, chunks = study.recipes[name], []
            for k, layers in enumerate(chunk_layers(config["num_hidden_layers"], entry.chunks)):
                chunks.append(("quantize", model, name, str(k)))
                seconds = len(layers) * rates.of_block(recipe, size, tokens)
                yield Job(chunks[-1], seconds + size.bytes / entry.chunks / DISK, 1, (collected,))
            exported = ("export", model, name)
            yield Job(exported, 2 * size.bytes / DISK, 0, tuple(chunks))
            yield Job(("verify", model, name), 3 * size.bytes / DISK + START_S, 1, (exported,))
            yield from _asked(study, rates, model, name, ranks, exported)


def _asked(study: Study, rates: Rates, model: str, name: str | None, ranks: int, after: tuple[str, ...]) -> Iterable[Job]:
    size, recipe = Size.of(CONFIGS[model]), study.recipes[name] if name else None
    for suite in study.suites.values():
        for task in suite.tasks:
            if task in ANSWERS:
                seconds = rates.decoding(size, CONFIGS[model], recipe, *ANSWERS[task], ranks)
            else:
                items, sequences, tokens = SCORED[task]
                seconds = 2 * size.parameters * items * sequences * tokens / (rates.flops * ranks)
            for seed in suite.seeds:
                asked = ("generate", model, name or "baseline", task, str(seed))
                yield Job(asked, seconds + START_S + size.bytes / DISK, ranks, (after,))


def schedule(planned: Sequence[Job], devices: int) -> float:
    """Seconds until all are done: whatever is ready starts as soon as its devices are free, first ready first."""
    waiting = {job.key: len(job.after) for job in planned}
    followers = defaultdict(list)
    for number, job in enumerate(planned):
        for key in job.after:
            followers[key].append((number, job))
    ready = [(0.0, number, job) for number, job in enumerate(planned) if not job.after]
    heapq.heapify(ready)
    running: list[tuple[float, int, Job]] = []
    now, free = 0.0, devices
    while ready or running:
        held = []
        while ready:
            since, number, job = heapq.heappop(ready)
            if job.devices > free:
                held.append((since, number, job))
                if free == 0:
                    break
                continue
            free -= job.devices
            heapq.heappush(running, (now + job.seconds + OVERHEAD_S, number, job))
        for entry in held:
            heapq.heappush(ready, entry)
        now, _, done = heapq.heappop(running)
        free += done.devices
        for number, job in followers[done.key]:
            waiting[job.key] -= 1
            if waiting[job.key] == 0:
                heapq.heappush(ready, (now, number, job))
    return now


def study_of(name: str) -> Study:
    """A study of config/, with a commit wherever none stands."""
    config = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
    for part in ("models", "calibrations", "tasks"):
        for entry in config[part].values():
            entry["source"]["revision"] = entry["source"].get("revision") or "0" * 40
    return load(config)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a Parquet or CSV file."""
    table = pa.csv.read_csv(path) if path.suffix == ".csv" else pa.parquet.read_table(path)
    return list(table.to_pylist())


def page(measured: Path, workers: Path | None) -> str:
    """docs/scale.md."""
    rates = Rates(rows_of(measured))
    studies = {name: study_of(name) for name in ("paper-reasoning", "paper-qa")}
    planned = [job for study in studies.values() for job in jobs(study, rates)]
    hours = {stage: sum(j.devices * (j.seconds + OVERHEAD_S) for j in planned if j.stage == stage) / 3600 for stage in STAGES}
    count = {stage: sum(job.stage == stage for job in planned) for stage in STAGES}
    longest = {stage: max(job.seconds for job in planned if job.stage == stage) / 3600 for stage in STAGES}
    walls = {n: schedule(planned, n) / 3600 for n in DEVICES}
    total = sum(hours.values())
    disk = sum(estimate.disk(study, {m: Size.of(CONFIGS[m]) for m in study.models}) for study in studies.values())
    recipes = {len(study.chosen) for study in studies.values()}
    lines = [
        "# The paper's whole study on 8 and on 64 NPUs",
        "",
        f"Written by `benchmarks/scale.py` from {measured.name} and the assumptions below: arithmetic, none of it run on an NPU.",
        "The studies are `config/paper-reasoning.yaml` and `config/paper-qa.yaml` together: 5 models x "
        f"{recipes.pop()} recipes and the",
        "baseline, 6 tasks of reasoning at 3 seeds, 7 of likelihood, `chunks` as they stand there.",
        "",
        "| stage | jobs | device hours | share | longest job (h) |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {s} | {count[s]} | {hours[s]:.1f} | {hours[s] / total:.1%} | {longest[s]:.2f} |" for s in STAGES]
    lines += [f"| all | {sum(count.values())} | {total:.0f} | | |", ""]
    lines += ["| NPUs | wall-clock (h) | days | devices busy |", "|---|---|---|---|"]
    lines += [f"| {n} | {wall:.1f} | {wall / 24:.1f} | {total / (n * wall):.0%} |" for n, wall in walls.items()]
    longest_answer = max((job for job in planned if job.stage == "generate"), key=lambda job: job.seconds)
    lines += [
        "",
        f"Storage: {disk / 1e12:.1f} TB in all, most of it fake checkpoints: 2 bytes per weight for each recipe.",
        "What cannot be cut bounds the wall-clock from below: the longest job is "
        f"`{' '.join(longest_answer.key)}`, {longest_answer.seconds / 3600:.1f} h.",
        "",
        "## Assumptions",
        "",
        "| what | taken as | why |",
        "|---|---|---|",
        *(f"| {what} | {taken} | {why} |" for what, taken, why in _assumptions(rates)),
        "",
        "Device hours scale with the assumptions, the shares of the stages hardly: generation is what the study costs, and of",
        "that the longest answers. A collapsed recipe answers at the full length and costs more.",
        "",
    ]
    return "\n".join(lines + (_workers(workers) if workers and workers.is_file() else []))


def _assumptions(rates: Rates) -> list[tuple[str, str, str]]:
    answers = ", ".join(f"{task} {tokens / 1e3:g}k" for task, (_, tokens) in ANSWERS.items())
    at_once = f"{SEQUENCES} sequences at once, fewer where their cache does not fit into {DEVICE_BYTES / 1e9:.0f} GB"
    job = f"{OVERHEAD_S:.0f} s in the queue, {START_S:.0f} s until an engine is ready, {DISK / 1e9:.0f} GB/s from disk"
    learned = rates.learned(resolve({"preset": "flatquant-w4a4kv4"})) / SLOWER
    return [
        ("an NPU beside the measured GPU (H200)", f"{SLOWER} times slower", "1.6 TB/s nominal beside 4.0 copied; never measured"),
        (
            "GPTQ, AWQ, rounding of a block",
            "seconds as measured, by weights x tokens; GPTQ with its kernel, which NPUs lack (0.7 s more of a 7B block)",
            "[devices](devices.md#measured-on-gpus)",
        ),
        (
            "FlatQuant of a block",
            f"one epoch as measured, the others as its steps: {learned:.0f} s for all 15",
            "as above",
        ),
        ("KVQuant of a block", "passes as in `ptqflow/estimate.py`, at AWQ's speed", "not timed on a GPU"),
        ("decoding", f"{at_once}; weights and cache read at {SHARE:.0%} of the copied rate", "bound by memory"),
        ("fake inputs or cache", f"{rates.emulation:.2f} times the float model's time", "measured on two blocks"),
        ("tokens of an answer", answers, "reasoning models; nothing measured"),
        (
            f"a model of more than {DEVICE_BYTES / 2e9:.0f} GB",
            "shared by two devices (`tensor_parallel: {MODEL: 2}`; recipes that quantize inputs have `input_shards: 2`), no loss",
            "its cache",
        ),
        ("a job", job, "[cluster](cluster.md)"),
    ]


STAGES = ("fetch", "collect", "quantize", "export", "verify", "generate")


def _workers(path: Path) -> list[str]:
    """What `workers.py` measured: one job for all chunks, a run with nothing to do, then a job for each chunk."""
    whole, nothing, *rows = rows_of(path)
    first, chunks = rows[0], rows[0]["chunks"]
    lines = [
        "## Workers",
        "",
        f"*Measured*: {first['what']}, {chunks} chunks; Snakemake with 1, 2 and 4 jobs at once on {first['cores']} cores:",
        "",
    ]
    lines += ["| workers | wall-clock (s) | speed-up | chunks per minute |", "|---|---|---|---|"]
    lines += [
        f"| {r['workers']} | {r['seconds']:.0f} | {first['seconds'] / r['seconds']:.2f} | {60 * r['chunks'] / r['seconds']:.1f} |"
        for r in rows
    ]
    return [
        *lines,
        "",
        "![Speed-up of quantize against workers](images/workers.svg)",
        "",
        f"More workers than cores cannot gain. All blocks in one job took {whole['seconds']:.0f} s, so a chunk in a job of",
        "its own costs next to nothing where the jobs of a run share what they load (on a CPU, on one machine), and 10 to 20 s",
        "on a [cluster](cluster.md), where each worker has cores or a device of its own. A run with nothing to do takes",
        f"{nothing['seconds']:.1f} s.",
        "",
    ]


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=ROOT / "benchmarks/h200.csv")
    parser.add_argument("--workers", type=Path, default=ROOT / "results/bench/workers.parquet")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/scale.md")
    args = parser.parse_args()
    args.output.write_text(page(args.measured, args.workers))


if __name__ == "__main__":
    main()
