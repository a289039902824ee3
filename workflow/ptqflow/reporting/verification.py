"""The table of verified checkpoints: how large, and how near to the fake form, each one was found to be."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ptqflow.reporting.render import TextTable, number
from ptqflow.reporting.variants import Variant


def build(verified: Sequence[tuple[Variant, pa.Table]]) -> list[dict[str, Any]]:
    """Rows of schema VERIFICATION_SUMMARY from tables of schema VERIFICATION."""
    return [variant.variant.columns | _summary(table.to_pylist()) for variant, table in verified]


def _summary(checks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def values(check: str, key: str = "value") -> list[float]:
        return [c[key] for c in checks if c["check"] == check and c[key] is not None]

    (weights,), (baseline,) = values("bytes"), values("baseline_bytes")
    notes = [f"{c['check']}: {c['note']}" for c in checks if c["status"] != "passed"]
    return {
        "tensors": sum(c["check"] == "tensors" for c in checks),
        "linears": sum(c["check"] == "integers" for c in checks),
        "bytes": int(weights),
        "baseline_share": weights / baseline,
        "weight_difference": max(values("weight"), default=None),
        "logprob_difference": max(values("mean_logprob_difference"), default=None),
        "logprob_limit": max(values("mean_logprob_difference", "limit"), default=None),
        "note": "; ".join(notes) or None,
    }


def printed(rows: Sequence[dict[str, Any]]) -> TextTable:
    """The table for reading."""
    header = ["Platform", "Model", "Recipe", "Form", "Tensors", "Weights (MiB)", "of baseline (%)"]
    header += ["Weight difference", "log p difference (nats)", "allowed"]
    body = []
    for r in rows:
        difference = "–" if r["weight_difference"] is None else f"{r['weight_difference']:.1e}"
        numbers = [str(r["tensors"]), number(r["bytes"] / 2**20, 2), number(100 * r["baseline_share"], 1), difference]
        numbers += [number(r["logprob_difference"], 4), number(r["logprob_limit"], 4)]
        body.append([r["platform"], r["model"], r["recipe"], r["form"], *numbers])
    notes = [
        "Weight difference: the largest relative one from the fake checkpoint's weights, which are rounded to the model's dtype.",
        "log p difference: mean over calibration text, from the fake checkpoint in the same engine. Where inputs are quantized, "
        "as much is allowed as two independent roundings differ.",
    ]
    # A form that no engine of ours loads is one note for all recipes; what is not as a recipe says is one of its own.
    said = {(r["recipe"] if "fallback" in r["note"] else "", r["form"], r["note"]) for r in rows if r["note"]}
    notes += [f"{' '.join(filter(None, (recipe, form)))}: {note}" for recipe, form, note in sorted(said)]
    return TextTable("Verified checkpoints", header, body, names=4, notes=notes)
