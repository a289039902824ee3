"""The latency table: medians of the timed repetitions, and the speed-up over the baseline on the same engine and platform."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import pyarrow as pa

from ptqflow.checkpoints.registry import FAKE
from ptqflow.reporting.render import TextTable, number
from ptqflow.reporting.variants import Served, Timing

_POINT = ("phase", "batch_size", "prompt_tokens", "new_tokens")


def build(timings: Sequence[tuple[Timing, pa.Table]]) -> list[dict[str, Any]]:
    """Rows of schema LATENCY_SUMMARY from tables of schema LATENCY, one per variant, engine and measured point."""
    rows = []
    medians: dict[tuple[Served, str, tuple[Any, ...]], float] = {}
    for timing, table in timings:
        points: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for entry in table.to_pylist():
            points.setdefault(tuple(entry[c] for c in _POINT), []).append(entry)
        for point, entries in points.items():
            row = timing.served.columns | dict(zip(_POINT, point, strict=True)) | _summary(entries)
            medians[timing.served, timing.timing, point] = row["seconds_median"]
            rows.append((timing, point, row))
    for timing, point, row in rows:
        baseline = medians.get((timing.baseline, timing.timing, point))
        emulated = timing.form == FAKE  # what a simulation costs is no speed of the recipe
        row["speedup"] = None if baseline is None or emulated else baseline / row["seconds_median"]
    return [row for _, _, row in rows]


def _summary(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    seconds = [entry["seconds"] for entry in entries]
    first = entries[0]
    tokens = first["batch_size"] * (first["prompt_tokens"] if first["phase"] == "prefill" else first["new_tokens"])
    return {
        "repetitions": len(seconds),
        "seconds_median": median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "tokens_per_second": tokens / median(seconds),
        "peak_bytes": max(entry["peak_bytes"] for entry in entries),
    }


def printed(rows: Sequence[dict[str, Any]]) -> TextTable:
    """The table for reading."""
    header = ["Platform", "Model", "Recipe", "Form", "Engine", "Phase", "Batch", "Prompt tokens", "New tokens"]
    header += ["Median (s)", "Min to max (s)", "Tokens/s", "Speed-up", "Peak memory (MiB)"]
    body = []
    for r in rows:
        seconds = f"{number(r['seconds_min'], 4)} to {number(r['seconds_max'], 4)}"
        names = [r["platform"], r["model"], r["recipe"], r["form"] or "–", r["engine"], r["phase"]]
        numbers = [str(r["batch_size"]), str(r["prompt_tokens"]), str(r["new_tokens"]), number(r["seconds_median"], 4), seconds]
        numbers += [
            number(r["tokens_per_second"], 0),
            "emulation" if r["form"] == FAKE else number(r["speedup"], 2),
            number(r["peak_bytes"] / 2**20, 0),
        ]
        body.append(names + numbers)
    note = (
        "Speed-up: over the baseline on the same engine. A fake form is an emulation: its time is the cost of simulating a "
        "recipe and says nothing of integer kernels, so that it has no speed-up."
    )
    return TextTable("Latency", header, body, names=6, notes=[note])
