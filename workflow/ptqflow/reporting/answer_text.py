"""The answer in sentences, one recommendation per model and platform, from the rows of the table `answer` alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ptqflow.checkpoints.registry import FAKE
from ptqflow.reporting.answer import Row, drop_in_words, mib, percent, points
from ptqflow.reporting.render import TextTable, asked, number, speed
from ptqflow.reporting.variants import BASELINE
from ptqflow.words import span

_NOTES = [
    "Ranked: what meets every constraint, smallest first. Undecided: what may meet them, as far as was measured. Drop: paired, "
    "with its 95 % interval. On disk: all files of the checkpoint. Tokens/s: decoding by the form that is served, never by an "
    "emulation. To quantize: time of all blocks and attempts of rescue, one job after the other, and the peak memory of one.",
]


@dataclass(frozen=True)
class Said:
    """What is said of one model on one platform."""

    place: str
    recommendation: str
    doubts: str | None
    runner_up: str | None
    cost: str | None
    serve: str | None

    @property
    def remarks(self) -> list[str]:
        """What is said beside the recommendation, but for the command that serves it."""
        doubts = self.doubts and f"Doubts: {self.doubts}."
        runner_up = self.runner_up and f"Runner-up: {self.runner_up}"
        return [remark for remark in (doubts, runner_up, self.cost) if remark]

    @property
    def sentences(self) -> list[str]:
        """All that is said."""
        return [self.recommendation, *self.remarks, *([f"Serve it: {self.serve}"] if self.serve else [])]


def said(rows: Sequence[Row]) -> list[Said]:
    """One answer per platform and model, in the order of the rows."""
    places = dict.fromkeys((r["platform"], r["model"]) for r in rows)
    return [_said([r for r in rows if (r["platform"], r["model"]) == place]) for place in places]


def _said(rows: Sequence[Row]) -> Said:
    first = rows[0]
    winner = first if first["rank"] == 1 else None
    others = [r for r in rows if r is not winner and r["status"] != "excluded" and r["recipe"] != BASELINE]
    return Said(
        place=f"{first['model']} on {first['platform']}",
        recommendation=_recommendation(winner, rows),
        doubts=winner["doubts"] if winner else None,
        runner_up=_runner_up(winner, others[0]) if others else None,
        cost=_cost(winner) if winner else None,
        serve=winner["serve"] if winner else None,
    )


def name(row: Row) -> str:
    """The variant as it is deployed."""
    if row["recipe"] == BASELINE:
        return "the unquantized model"
    return str(row["recipe"]) if row["form"] is None else f"{row['recipe']} as {row['form']}"


def _recommendation(winner: Row | None, rows: Sequence[Row]) -> str:
    if winner is None:
        return f"Nothing is shown to meet the constraints: {_bounds(rows[0])}, and the size and speed that are asked."
    if winner["recipe"] == BASELINE:
        others = [r for r in rows if r["recipe"] != BASELINE and r["form"] != FAKE]
        if met := [r for r in others if r["status"] == "meets"]:
            why = f"{name(met[0])} meets the constraints, but is no smaller"
        elif any((r["p_within"] or 0.0) >= r["probability"] for r in others):
            why = "no recipe is shown to meet every constraint"
        else:
            why = f"no recipe that can be served is shown to lose {_bounds(winner)}"
        return f"Keep the unquantized model: {why}."
    share = "" if winner["share"] is None else f", {number(100 * winner['share'], 0)} % of the unquantized model"
    return f"Deploy {name(winner)}: it {winner['reasons']}{share}."


def _bounds(row: Row) -> str:
    return f"at most {points(row['max_drop'])} with a probability of {asked(100 * row['probability'], 0)} % or more"


def _runner_up(winner: Row | None, row: Row) -> str:
    if row["status"] == "undecided":
        return f"{name(row)} is undecided: {row['reasons']}."
    if winner is not None and winner["bytes"] is not None and row["bytes"] is not None:
        how = "of the same size" if row["bytes"] == winner["bytes"] else f"larger by {mib(row['bytes'] - winner['bytes'])}"
        return f"{name(row)} meets the constraints, too, and is {how}: it loses {drop_in_words(row)}."
    return f"{name(row)} meets the constraints, too: it loses {drop_in_words(row)}."


def _cost(row: Row) -> str | None:
    if row["quantize_seconds"] is None:
        return None
    jobs = "one job" if row["quantize_jobs"] == 1 else f"{row['quantize_jobs']} jobs, which can run side by side"
    return (
        f"To quantize: {span(row['quantize_seconds'])} in all on {row['platform']} in {jobs}, "
        f"at most {mib(row['quantize_peak_bytes'])} of memory each."
    )


def printed(rows: Sequence[Row], sentences: bool = True) -> list[TextTable]:
    """One table per platform and model, with the sentences among its notes or without."""
    grids = []
    for place, answer in zip(dict.fromkeys((r["platform"], r["model"]) for r in rows), said(rows), strict=True):
        here = [r for r in rows if (r["platform"], r["model"]) == place]
        notes = [*(answer.sentences if sentences else []), *_NOTES]
        grids.append(TextTable(f"What to deploy: {answer.place}", HEADER, [cells(r) for r in here], 4, notes))
    return grids or [TextTable("What to deploy", HEADER, [], 4, ["Nothing was quantized or scored."])]


HEADER = [
    *("Rank", "Recipe", "Form", "Standing"),
    *("Drop (points)", "P(within bound)", "On disk", "Tokens/s", "Time to quantize", "Memory to quantize", "Why"),
]


def cells(row: dict[str, Any] | Row) -> list[str]:
    """A row for reading, as HEADER."""
    ends = f" [{number(row['drop_low'], 1)}, {number(row['drop_high'], 1)}]"
    return [
        "–" if row["rank"] is None else str(row["rank"]),
        row["recipe"],
        row["form"] or "–",
        row["status"] if row["status"] != "meets" else "recommended" if row["rank"] == 1 else "meets all",
        "–" if row["drop"] is None else number(row["drop"], 1) + ends,
        "–" if row["p_within"] is None or row["recipe"] == BASELINE else percent(row["p_within"]),
        "–" if row["bytes"] is None else mib(row["bytes"]),
        speed(row["tokens_per_second"]),
        "–" if row["quantize_seconds"] is None else span(row["quantize_seconds"]),
        "–" if row["quantize_peak_bytes"] is None else mib(row["quantize_peak_bytes"]),
        row["reasons"] or "–",
    ]
