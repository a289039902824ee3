"""Outliers of activations: how far the largest channels of a linear's input stand out of the others, by block and site.

From the statistics of channels that `collect` has left. No fourth moment of single elements is among them, so the kurtosis is
that of elements which are normal within each channel: 3 mean(m²) / mean(m)², of the channels' second moments m about zero.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from ptqflow.reporting.render import TextTable, number
from ptqflow.reporting.variants import Collected

READS = ("layer", "site", "channel", "absmax", "second_moment")
FAR = 6.0  # times the median channel's largest value: from there on a channel is counted
_NORMAL = 3.0  # kurtosis of a normal distribution
Row = dict[str, Any]


def build(statistics: Sequence[tuple[Collected, pa.Table]]) -> list[Row]:
    """Rows of schema OUTLIERS from columns READS of tables of schema STATISTICS, each site's channels together and in order."""
    return [
        {**who.model_dump(exclude={"recipes"}), **row} for who, table in statistics if table.num_rows for row in _of_sites(table)
    ]


def _of_sites(table: pa.Table) -> Iterator[Row]:
    channel, layer, absmax, second = (table[name].to_numpy() for name in ("channel", "layer", "absmax", "second_moment"))
    for start, stop in pairwise([*np.flatnonzero(channel == 0), len(channel)]):
        place = {"layer": int(layer[start]), "site": table["site"][int(start)].as_py(), "channels": int(stop - start)}
        yield place | _numbers(absmax[start:stop].astype(np.float64), second[start:stop].astype(np.float64))


def _numbers(absmax: np.ndarray, second: np.ndarray) -> Row:
    """Of one site: `absmax` and `second` moment [channels]. What would divide by zero is null."""
    typical, energy = float(np.median(absmax)), float(second.sum())
    rms = (energy / len(second)) ** 0.5
    return {
        "channel": int(absmax.argmax()),
        "absmax": float(absmax.max()),
        "median_absmax": typical,
        "rms": rms,
        "ratio": float(absmax.max()) / typical if typical else None,
        "peak_to_rms": float(absmax.max()) / rms if energy else None,
        "far_channels": int((absmax > FAR * typical).sum()),
        "energy_share": float(second.max()) / energy if energy else None,
        "kurtosis": _NORMAL * len(second) * float((second**2).sum()) / energy**2 if energy else None,
    }


def printed(rows: Sequence[Row]) -> TextTable:
    """By model, rotation, calibration and site, over blocks: typical and worst, and the channel that stands out most often."""
    parts: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        names = (row["platform"], row["model"], row["rotation"] or "–", row["calibration"], row["site"])
        parts.setdefault(names, []).append(row)
    body = []
    for who, part in parts.items():
        ratios = [r for r in part if r["ratio"] is not None]
        worst = max(ratios, key=lambda r: r["ratio"]) if ratios else None
        often, times = Counter(r["channel"] for r in part).most_common(1)[0]
        body.append(
            [
                *who,
                number(median(r["ratio"] for r in ratios), 1) if worst else "–",
                *((number(worst["ratio"], 1), str(worst["layer"])) if worst else ("–", "–")),
                str(max(r["far_channels"] for r in part)),
                str(part[0]["channels"]),
                *(_most(part, column, scale) for column, scale in (("peak_to_rms", 1), ("kurtosis", 1), ("energy_share", 100))),
                f"{often} ({times} of {len(part)})",
            ]
        )
    header = ["Platform", "Model", "Rotation", "Calibration", "Input of", "Largest / median channel, median", "worst", "in block"]
    header += [
        f"Channels beyond {FAR:g}×, most",
        "of",
        "Peak / RMS, most",
        "Kurtosis, most",
        "Largest channel's energy, most (%)",
    ]
    header += ["Channel largest in most blocks"]
    note = "Of the unquantized model on the calibration text, before any scale moves; sites k and v are what the KV cache holds."
    return TextTable("Outliers of activations", header, body, names=5, notes=[note])


def _most(rows: Sequence[Row], column: str, scale: float) -> str:
    found = [scale * r[column] for r in rows if r[column] is not None]
    return number(max(found), 1) if found else "–"
