"""The answer: what to deploy of each model on each platform under the user's constraints, and what became of every other variant.

A constraint is met, failed or open. Of accuracy it is met when the probability that the drop is within bounds reaches the asked
one, failed when that of its opposite does or the variant collapsed, and open between; thin evidence leaves it open whatever the
probability. Of speed it is open where repetitions lie on both sides, or nothing was timed; an emulation (form `fake`) has no
speed. A variant that fails one is excluded, one with an open one is undecided, and only one that meets all can be recommended:
the smallest, with the unquantized model among them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ptqflow.checkpoints.registry import FAKE
from ptqflow.decide import Decide
from ptqflow.evaluation import decision
from ptqflow.reporting.accuracy_table import needed
from ptqflow.reporting.frontier import frontier
from ptqflow.reporting.layer_error import BLOCK
from ptqflow.reporting.render import asked, number, speed
from ptqflow.reporting.runs import AVERAGE, PERPLEXITY
from ptqflow.reporting.variants import BASELINE

Row = Mapping[str, Any]
Verdict = Literal["met", "open", "failed"]
_VARIANT = ("platform", "model", "recipe", "form")


@dataclass(frozen=True)
class Tables:
    """The rows of a study's tables that the answer is made of; how each checkpoint is served (variant -> command); the
    recipes of a platform and model of which another calibration draw would make the same; what is to be said of tasks whose items
    stand in a calibration set ((model, recipe, task) -> said); the origin of each checkpoint, which notes `fallbacks` and
    `warnings` as rescue left them (variant -> origin); and what `formats.format_of` says of each (variant -> format).
    """

    accuracy: Sequence[Row] = ()
    sizes: Sequence[Row] = ()
    latency: Sequence[Row] = ()
    verification: Sequence[Row] = ()
    layer_error: Sequence[Row] = ()
    rescue: Sequence[Row] = ()
    collapse: Sequence[Row] = ()
    serving: Mapping[tuple[Any, ...], str] = field(default_factory=dict)
    exact: Collection[tuple[str, str, str]] = ()
    touched: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    noted: Mapping[tuple[Any, ...], Row] = field(default_factory=dict)
    formats: Mapping[tuple[Any, ...], str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Check:
    verdict: Verdict
    text: str


def build(tables: Tables, decide: Decide) -> list[dict[str, Any]]:
    """Rows of schema ANSWER: by platform and model the variants that meet all (ranked), the undecided, the excluded."""
    averages = [row for row in tables.accuracy if row["task"] == AVERAGE]
    found = []
    for place in dict.fromkeys((r["platform"], r["model"]) for r in [*averages, *tables.sizes]):
        here = [r for r in averages if (r["platform"], r["model"]) == place]
        sizes = {tuple(r[c] for c in _VARIANT): r for r in tables.sizes if (r["platform"], r["model"]) == place}
        forms: dict[str, list[str | None]] = {}
        for recipe, form in [*((r["recipe"], r["form"]) for r in here), *((key[2], key[3]) for key in sizes)]:
            if form not in forms.setdefault(recipe, []):
                forms[recipe].append(form)
        rows = [
            _row((*place, recipe, form), here, sizes, tables, decide)
            for recipe, known in forms.items()
            for form in ([f for f in known if f != FAKE] or known)
        ]
        found += _ranked(rows)
    return found


def _ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In order of preference: smaller first, at equal size the unquantized model, then the more probable one."""
    order = {"meets": 0, "undecided": 1, "excluded": 2}

    def preference(row: Row) -> tuple[Any, ...]:
        sure = -(row["p_within"] or 0.0)
        size = float("inf") if row["bytes"] is None else row["bytes"]
        by = (size, row["recipe"] != BASELINE, sure) if row["status"] == "meets" else (sure, size)
        return (order[row["status"]], *by)

    on_frontier = frontier([(_lost(r), r["packed_bytes"], r["tokens_per_second"]) for r in rows])
    kept = sorted((row | {"frontier": on} for row, on in zip(rows, on_frontier, strict=True)), key=preference)
    return [row | {"rank": i + 1 if row["status"] == "meets" else None} for i, row in enumerate(kept)]


def _lost(row: Row) -> float | None:
    """The unquantized model loses nothing against itself, where it was scored."""
    lost: float | None = 0.0 if row["recipe"] == BASELINE and row["score"] is not None else row["drop"]
    return lost


def _row(
    who: tuple[Any, ...], averages: Sequence[Row], sizes: Mapping[tuple[Any, ...], Row], tables: Tables, decide: Decide
) -> dict[str, Any]:
    platform, model, recipe, form = who
    scored = _scored(recipe, form, averages, decide.engine)
    broken = _collapse(who, scored, tables.accuracy, decide.engine)
    timed = _timed(who, tables.latency, decide.engine)
    size = sizes.get(who, {})
    checked: Row = next((r for r in tables.verification if tuple(r[c] for c in _VARIANT) == who), {})
    checks = [
        _servable(recipe, form),
        _accuracy(recipe, scored, broken, decide),
        _small(size.get("bytes"), decide.max_bytes),
        _fast(timed, decide.min_tokens_per_second),
        _verified(checked),
    ]
    failed = [c.text for c in checks if c.verdict == "failed"]
    unknown = [c.text for c in checks if c.verdict == "open"]
    status = "excluded" if failed else "undecided" if unknown else "meets"
    cost, attempts = (
        [r for r in rows if (r["platform"], r["model"], r["recipe"]) == (platform, model, recipe)]
        for rows in (tables.layer_error, tables.rescue)
    )
    blocks = [r for r in cost if r["module"] == BLOCK]  # a block's time holds its linears'
    baseline: Row = sizes.get((platform, model, BASELINE, None), {})
    return {
        **dict(zip(_VARIANT, who, strict=True)),
        "format": tables.formats.get(who),
        "status": status,
        "engine": scored.get("engine"),
        "scored_form": scored.get("form"),
        **{column: scored.get(column) for column in ("score", "drop", "drop_low", "drop_high")},
        "p_within": 1.0 if recipe == BASELINE else scored.get("p_within"),
        "max_drop": decide.max_drop,
        "probability": decide.probability,
        "bytes": size.get("bytes"),
        "share": size["bytes"] / baseline["bytes"] if size.get("bytes") and baseline.get("bytes") else None,
        "packed_bytes": size.get("packed_bytes"),
        "tokens_per_second": timed.get("tokens_per_second"),
        "quantize_seconds": sum(r["seconds"] for r in [*blocks, *attempts]) if cost else None,
        "quantize_peak_bytes": max((r["peak_bytes"] for r in cost), default=None),
        "quantize_jobs": len({r["chunk"] for r in cost}) if cost else None,
        "reasons": "; ".join(failed or unknown or [c.text for c in checks if c.text]) or None,
        "doubts": "; ".join([*_doubts(who, scored, broken, checked, tables), *(unknown if failed else [])]) or None,
        "serve": tables.serving.get(who),
    }


def _scored(recipe: str, form: str | None, averages: Sequence[Row], engine: str | None) -> Row:
    """The average that speaks for a variant: its own form's, else its emulation's; of the asked engine, if one is asked.

    A form that was scored on part of the tasks has no average drop, and leaves the word to an emulation that has.
    """
    rows = [r for r in averages if r["recipe"] == recipe and engine in (None, r["engine"])]
    own, emulated = ([r for r in rows if r["form"] == f] for f in (form, FAKE))

    def told(row: Row) -> tuple[bool, bool, int]:
        return row["drop"] is not None, row["collapsed"] and recipe != BASELINE, row["items"]

    chosen = next((part for part in (own, emulated) if any(any(told(r)[:2]) for r in part)), own or emulated)
    return max(chosen, key=told, default={})


def _collapse(who: tuple[Any, ...], scored: Row, accuracy: Sequence[Row], engine: str | None) -> str | None:
    """Where a variant, or the form that speaks for it, has logits or losses that no number holds: on any task, in any engine that
    counts. An average knows of accuracy tasks alone.
    """
    notes = [
        r["note"] if r["task"] == AVERAGE else f"{r['task']}: {r['note']}"
        for r in accuracy
        if r["collapsed"] and (r["task"] == AVERAGE or r["metric"] == PERPLEXITY)
        if tuple(r[c] for c in _VARIANT) in (who, (*who[:3], scored.get("form", FAKE))) and engine in (None, r["engine"])
    ]
    return "; ".join(dict.fromkeys(notes)) or None


def _timed(who: tuple[Any, ...], latency: Sequence[Row], engine: str | None) -> Row:
    """The fastest measured point of decoding. An emulation has none: its time says nothing of integer kernels."""
    rows = [r for r in latency if tuple(r[c] for c in _VARIANT) == who and r["phase"] == "decode"]
    rows = [r for r in rows if who[3] != FAKE and engine in (None, r["engine"])]
    return max(rows, key=lambda r: r["tokens_per_second"], default={})


def _servable(recipe: str, form: str | None) -> _Check:
    if recipe == BASELINE or form != FAKE:
        return _Check("met", "")
    return _Check(
        "failed",
        "only its emulation was written; no form that is asked for (key forms) holds it; ptqflow formats lists what does",
    )


def _accuracy(recipe: str, scored: Row, broken: str | None, decide: Decide) -> _Check:
    if recipe == BASELINE:
        return _Check("met", "nothing is lost")
    if broken:
        return _Check("failed", f"it collapsed ({broken})")
    p = scored.get("p_within")
    if p is None:
        why = scored.get("note") or "no accuracy task was scored"
        return _Check("open", f"its drop is not known ({why})")
    text = f"loses {drop_in_words(scored)}, at most {points(decide.max_drop)} with probability {percent(p)}"
    if scored.get("doubt"):
        return _Check("open", f"{text}, but the evidence is too thin ({scored['doubt']})")
    if p >= decide.probability:
        return _Check("met", text)
    if 1 - p >= decide.probability:
        return _Check("failed", text)
    return _Check("open", f"{text}, {asked(100 * decide.probability, 0)} % asked{_needed(scored, decide)}")


def _needed(scored: Row, decide: Decide) -> str:
    """What would decide the class; said only where the class's bound is the one that is asked."""
    if (decide.max_drop, decide.probability) != (decision.LOSSLESS, decision.DECIDED) or not (known := needed(dict(scored))):
        return ""
    return f"; {known} would decide it, were the drop as estimated"


def _small(size: int | None, most: int | None) -> _Check:
    if size is None:
        return _Check("met" if most is None else "open", "" if most is None else "its size is not known")
    if most is not None and size > most:
        return _Check("failed", f"{size} bytes on disk ({mib(size)}), more than the {most} allowed")
    return _Check("met", f"{mib(size)} on disk")


def _fast(timed: Row, least: float | None) -> _Check:
    """By the slowest and the fastest repetition of the fastest point."""
    if not timed:
        return _Check("met", "") if least is None else _Check("open", "its speed was not measured")
    rate, median = timed["tokens_per_second"], timed["seconds_median"]
    slowest, fastest = rate * median / timed["seconds_max"], rate * median / timed["seconds_min"]
    text = f"decodes {speed(rate)} tokens/s ({speed(slowest)} to {speed(fastest)}, batch {timed['batch_size']})"
    if least is None or slowest >= least:
        return _Check("met", text)
    return _Check("failed" if fastest < least else "open", f"{text}, {asked(least, 0)} asked")


def _verified(checked: Row) -> _Check:
    found, limit = checked.get("logprob_difference"), checked.get("logprob_limit")
    if found is None or limit is None or found <= limit:
        return _Check("met", "")
    return _Check(
        "failed", f"its log-probabilities differ from the emulation's by {number(found, 3)} nats, {number(limit, 3)} allowed"
    )


def _doubts(who: tuple[Any, ...], scored: Row, broken: str | None, checked: Row, tables: Tables) -> list[str]:
    platform, model, recipe, form = who
    if recipe == BASELINE:
        return [f"it collapsed itself ({broken})"] if broken else []
    doubts = []
    if scored and scored["form"] != form:
        found = checked.get("logprob_difference")
        how = (
            "the checkpoint's log-probabilities were not compared with it"
            if found is None
            else f"the checkpoint's log-probabilities differ from it by {number(found, 3)} nats"
        )
        doubts.append(f"scored as an emulation; {how}")
        own = [r for r in tables.accuracy if r["task"] == AVERAGE and tuple(r[c] for c in _VARIANT) == who]
        doubts += [f"of the checkpoint itself: {r['note']}" for r in own[:1] if r["drop"] is None]
    exact = (platform, model, recipe) in tables.exact
    if scored.get("replicates") == 1 and not exact:
        doubts.append("one calibration draw was scored")
    for kind, said in (("fallbacks", "not as the recipe says"), ("warnings", "doubtful (warnings of its card)")):
        if places := sum(tables.noted.get(who, {}).get(kind, {}).values()):
            doubts.append(f"{places} linears or blocks are {said}" if places > 1 else f"a linear or block is {said}")
    if not exact:
        spoke = [r for r in tables.accuracy if all(r[c] == scored.get(c) for c in (*_VARIANT, "engine"))]
        tasks = [r["task"] for r in spoke if r["metric"] != PERPLEXITY]
        doubts += [f"on {task}: {told}" for task in tasks if (told := tables.touched.get((model, recipe, task)))]
    signs = [
        r
        for r in tables.collapse
        if (r["platform"], r["model"], r["recipe"]) == (platform, model, recipe)
        and r["form"] == scored.get("form")
        and r["signs"]
    ]
    doubts += [f"on {r['task']}: {r['signs']}" for r in signs]
    if not any(tuple(r[c] for c in _VARIANT) == who for r in tables.latency):
        doubts.append("the checkpoint's speed was not measured")
    return doubts


def points(bound: float) -> str:
    """`1.0 point`, `0.25 points`."""
    return f"{asked(bound, 1)} {'point' if bound == 1 else 'points'}"


def drop_in_words(row: Row) -> str:
    """`0.7 points (95 % interval −1.5 to 2.8)`."""
    return f"{number(row['drop'], 1)} points (95 % interval {number(row['drop_low'], 1)} to {number(row['drop_high'], 1)})"


def percent(p: float) -> str:
    """A probability in percent; never rounded to certainty, nor across the bound that it is compared with: cut, not rounded."""
    if p < 0.01:
        return "below 1 %"
    return "above 99 %" if p > 0.99 else f"{int(100 * p + 1e-9)} %"


def mib(size: float) -> str:
    """Bytes for people."""
    if size < 2**20:
        return f"{number(size / 2**10, 1)} KiB"
    return f"{number(size / 2**20, 1)} MiB" if size < 2**30 else f"{number(size / 2**30, 2)} GiB"
