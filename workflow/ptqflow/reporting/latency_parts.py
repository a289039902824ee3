"""Where the time of a phase goes: the parts of the linears' work, and the kernels that multiplied."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import pyarrow as pa

from ptqflow.checkpoints.registry import FAKE
from ptqflow.reporting.render import TextTable, number
from ptqflow.reporting.variants import Timing

_POINT = ("phase", "batch_size", "prompt_tokens", "workload")
ORDER = ("transform", "quantize", "product", "scale", "cache", "other")


def build(timings: Sequence[tuple[Timing, pa.Table]]) -> list[dict[str, Any]]:
    """Rows of schema LATENCY_PARTS from tables of schema LATENCY: shares of the profiled run, in seconds of the timed ones."""
    rows = []
    for timing, table in timings:
        points: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for entry in table.to_pylist():
            points.setdefault(tuple(entry[c] for c in _POINT), []).append(entry)
        for point, entries in points.items():
            parts = sorted((e for e in entries if e["part"] is not None), key=lambda e: ORDER.index(e["part"]))
            timed, whole = [e["seconds"] for e in entries if e["part"] is None], sum(e["seconds"] for e in parts)
            for part in parts:
                share = part["seconds"] / whole
                found = {"part": part["part"], "share": share, "seconds": share * median(timed), "kernels": part["kernels"]}
                rows.append(timing.served.columns | dict(zip(_POINT, point, strict=True)) | found)
    return rows


def printed(rows: Sequence[dict[str, Any]]) -> TextTable:
    """The table for reading."""
    header = [
        "Platform",
        "Model",
        "Recipe",
        "Form",
        "Engine",
        "Phase",
        "Part",
        "Kernels",
        "Batch",
        "Prompt tokens",
        "Share",
        "Time (ms)",
    ]
    body = []
    for r in rows:
        form = "emulation" if r["form"] == FAKE else r["form"] or "–"
        names = [r["platform"], r["model"], r["recipe"], form, r["engine"], r["phase"], r["part"], r["kernels"] or "–"]
        body.append([*names, str(r["batch_size"]), str(r["prompt_tokens"]), f"{r['share']:.0%}", number(1000 * r["seconds"], 2)])
    note = (
        "Shares of one profiled run, which is slower than the timed ones; times are those shares of the median. Product: of all "
        "linears, quantized or not; other: attention, norms and launches. The kernels are the proof of what multiplied."
    )
    return TextTable("Where the time goes", header, body, names=8, notes=[note])
