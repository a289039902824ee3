"""The latency table: medians of the timed repetitions, and the speed-up over the baseline on the same engine and platform."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import exp, log
from statistics import median
from typing import Any

import pyarrow as pa

from ptqflow.artifacts.tables import metadata_of
from ptqflow.checkpoints.registry import FAKE
from ptqflow.reporting.render import TextTable, number, speed
from ptqflow.reporting.variants import Served, Timing

_POINT = ("phase", "batch_size", "prompt_tokens", "new_tokens", "workload")


def build(timings: Sequence[tuple[Timing, pa.Table]]) -> list[dict[str, Any]]:
    """Rows of schema LATENCY_SUMMARY from tables of schema LATENCY, one per variant, engine and measured point."""
    rows = []
    number_types = {
        (timing.served, timing.timing): metadata_of(table.schema).get("engine", {}).get("dtype") for timing, table in timings
    }
    medians: dict[tuple[Served, str, tuple[Any, ...]], float] = {}
    for timing, table in timings:
        points: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for entry in (entry for entry in table.to_pylist() if entry["part"] is None):
            points.setdefault(tuple(entry[c] for c in _POINT), []).append(entry)
        for point, entries in points.items():
            row = timing.served.columns | dict(zip(_POINT, point, strict=True)) | _summary(entries)
            medians[timing.served, timing.timing, point] = row["seconds_median"]
            rows.append((timing, point, row))
    for timing, point, row in rows:
        baseline = medians.get((timing.baseline, timing.timing, point))
        emulated = timing.form == FAKE  # what a simulation costs is no speed of the recipe
        alike = number_types.get((timing.baseline, timing.timing)) == number_types[timing.served, timing.timing]
        row["speedup"] = baseline / row["seconds_median"] if alike and not emulated and baseline is not None else None
        phase, batch, prompt, _, workload = point
        first = medians.get((timing.served, timing.timing, ("prefill", batch, prompt, 0, workload)))
        row |= _request(row, first) if phase == "decode" else dict.fromkeys(_REQUEST)
    return [row for _, _, row in rows]


_REQUEST = ("time_to_first_token", "time_per_output_token", "user_tokens_per_second", "request_tokens_per_second")


def _request(row: Mapping[str, Any], first: float | None) -> dict[str, float | None]:
    """What whoever waits sees of a decode phase, and of the prefill before it."""
    seconds, new = row["seconds_median"], row["new_tokens"]
    rate = None if first is None else row["batch_size"] * new / (first + seconds)
    return dict(zip(_REQUEST, (first, seconds / new, new / seconds, rate), strict=True))


def _summary(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    seconds = [entry["seconds"] for entry in entries]
    first = entries[0]
    least = {"compute": first["flops"] / first["device_flops"], "memory": first["moved_bytes"] / first["device_bandwidth"]}
    tokens = first["batch_size"] * (first["prompt_tokens"] if first["phase"] == "prefill" else first["new_tokens"])
    return {
        "repetitions": len(seconds),
        "seconds_median": median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "tokens_per_second": tokens / median(seconds),
        "peak_bytes": max(entry["peak_bytes"] for entry in entries),
        "load_seconds": median(entry["load_seconds"] for entry in entries),
        "weight_bytes": first["weight_bytes"],
        "cache_sequences": first["cache_tokens"] // (first["prompt_tokens"] + first["new_tokens"]),
        "roofline_share": max(least.values()) / median(seconds),
        "bound_by": max(least, key=lambda bound: least[bound]),
    }


def crossings(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], float, bool]]:
    """Where a real form and its baseline are equally fast: (a row of the form's, batch size, whether it is faster below).

    Between measured batch sizes log(speed-up) is taken as linear in log(batch size). The first crossing of each form and shape.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in (row for row in rows if row["speedup"] is not None and row["form"] is not None):
        names = ("platform", "model", "recipe", "form", "engine", "phase", "prompt_tokens", "new_tokens", "workload")
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    found = []
    for group in groups.values():
        points = [(row, log(row["batch_size"]), log(row["speedup"])) for row in sorted(group, key=lambda row: row["batch_size"])]
        for (row, x, y), (_, next_x, next_y) in pairwise(points):
            if y * next_y <= 0 and y != next_y:
                found.append((row, exp(x - y * (next_x - x) / (next_y - y)), y > next_y))
                break
    return found


def _said(crossing: tuple[Mapping[str, Any], float, bool]) -> str:
    row, batch, faster_below = crossing
    where = f"{row['recipe']}, {row['form']}, {row['engine']}, {row['phase']} at {row['prompt_tokens']} prompt tokens"
    return f"{where}: as fast as the baseline near a batch of {batch:.1f}, faster {'below' if faster_below else 'above'}."


def printed(rows: Sequence[dict[str, Any]]) -> TextTable:
    """The table for reading."""
    header = ["Platform", "Model", "Recipe", "Form", "Engine", "Phase", "Batch", "Prompt tokens", "New tokens"]
    header += ["Median (s)", "Min to max (s)", "Tokens/s", "Speed-up", "Of roofline", "Peak memory (MiB)"]
    body = []
    for r in rows:
        seconds = f"{number(r['seconds_min'], 4)} to {number(r['seconds_max'], 4)}"
        names = [r["platform"], r["model"], r["recipe"], r["form"] or "–", r["engine"], r["phase"]]
        numbers = [str(r["batch_size"]), str(r["prompt_tokens"]), str(r["new_tokens"]), number(r["seconds_median"], 4), seconds]
        numbers += [
            speed(r["tokens_per_second"]),
            "emulation" if r["form"] == FAKE else number(r["speedup"], 2),
            f"{r['roofline_share']:.0%} ({r['bound_by']})",
            number(r["peak_bytes"] / 2**20, 0),
        ]
        body.append(names + numbers)
    note = (
        "Speed-up: over the baseline on the same engine. A fake form is an emulation: its time is the cost of simulating a "
        "recipe and says nothing of integer kernels, so that it has no speed-up; nor has a form that its engine runs in another "
        "number type than the baseline. Of roofline: the least time for the model's "
        "operations (compute; in the compute dtype, or of int8 where transformers-int multiplies integers), or for reading "
        "weights and cache once (memory), at rates measured on the device, over the median."
    )
    return TextTable("Latency", header, body, names=6, notes=[note, *map(_said, crossings(rows))])


def printed_requests(rows: Sequence[dict[str, Any]]) -> TextTable:
    """The same rows as whoever waits for an answer, and whoever pays for the device, sees them."""
    header = ["Platform", "Model", "Recipe", "Form", "Engine", "Workload", "Batch", "Prompt tokens", "New tokens", "TTFT (s)"]
    header += ["TPOT (ms)", "Tokens/s of a user", "Tokens/s of the device", "Load (s)", "Weights (MiB)", "Sequences in cache"]
    body = []
    for r in (r for r in rows if r["phase"] == "decode"):
        names = [r["platform"], r["model"], r["recipe"], r["form"] or "–", r["engine"], r["workload"] or "–"]
        numbers = [str(r[key]) for key in ("batch_size", "prompt_tokens", "new_tokens")]
        numbers += [number(r["time_to_first_token"], 4), number(1000 * r["time_per_output_token"], 2)]
        numbers += [
            number(r["user_tokens_per_second"], 1),
            number(r["request_tokens_per_second"], 1),
            number(r["load_seconds"], 1),
        ]
        body.append([*names, *numbers, number(r["weight_bytes"] / 2**20, 0), str(r["cache_sequences"])])
    notes = [
        "TTFT: time to the first token (prefill). TPOT: time per output token. Tokens/s of the device: new tokens of all "
        "sequences, prefill counted. Sequences in cache: of this length, in the memory that was free after loading (vLLM: it "
        "has reserved it). A fake form is an emulation: these are not the recipe's times."
    ]
    return TextTable("Requests", header, body, names=6, notes=notes)
