"""The table of what was found of the devices that recipes were calibrated on."""

from collections.abc import Sequence
from typing import Any

from ptqflow.reporting.render import TextTable


def printed(rows: Sequence[dict[str, Any]]) -> TextTable:
    """The table for reading, of rows of schema SELFTEST; probes that failed first."""
    header = ["Platform", "Device", "Probe", "Relied on by", "Verdict", "Found", "Allowed"]
    body, notes = [], []
    for r in sorted(rows, key=lambda r: r["passed"] is True):
        verdict = {True: "passed", False: "FAILED", None: "not run"}[r["passed"]]
        found, allowed = ("–" if r[key] is None else f"{r[key]:.1e}" if r[key] else "0" for key in ("value", "limit"))
        body.append([r["platform"], r["device"], r["probe"], r["relied_on_by"] or "–", verdict, found, allowed])
        if r["detail"]:
            notes.append(f"{r['platform']}, {r['probe']}: {r['detail']}")
    notes.insert(0, "Relative errors, or counts. Recipes are refused whose calibration relies on a probe that failed.")
    return TextTable("Self-test of the devices", header, body, names=5, notes=notes)
