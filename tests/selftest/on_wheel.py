"""The self-test's wiring on a pretended NPU: `python -m ptqflow selftest --wiring-only` for torch_npu over a stand-in for CANN.

    LD_LIBRARY_PATH=<stand-in> PYTHONPATH=<torch>:<torch_npu>:workflow:tests/support python tests/selftest/on_wheel.py

Prints a JSON object per probe, one per call of its operators (`operators.py`), then one per recipe: why it would be refused, if
it trained through the device's own `Tensor.inverse` as others' FlatQuant does. (Ours does not: `ptqflow.numerics.inverse`.)
"""

import json
import sys
from dataclasses import replace

import operators
import torch_npu  # noqa: F401 (not every release is found by torch itself)
from ptqflow.devices.device import select
from ptqflow.errors import ConfigError
from ptqflow.presets import resolve
from ptqflow.selftest import probes
from ptqflow.selftest.reliance import check_device

RECIPES = ("flatquant-w4a4kv4", "gptq-w4a16", "rtn-w8a8")


def refused(preset: str) -> str:
    """What `check_device` says of the preset, or nothing."""
    try:
        check_device(resolve({"preset": preset}), select("ascend"))
    except ConfigError as error:
        return str(error)
    return ""


def main() -> None:
    """All probes; then the recipes, held against those whose wiring can be asked."""
    rows = list(probes.everything(select("ascend"), wiring_only=True))
    for row in rows:
        print(json.dumps(row))
    told = {row["probe"] for row in rows if row["value"] is not None}  # of others the stand-in lets nothing be said
    asked = [replace(probe, measure=probe.wiring) for probe in probes.PROBES if probe.wiring and probe.name in told]
    probes.PROBES = [
        replace(probe, relied_on_by="training") if probe.name == "Tensor.inverse has a gradient" else probe for probe in asked
    ]
    for row in operators.asked():
        print(json.dumps(row))
    for preset in RECIPES:
        print(json.dumps({"recipe": preset, "refused": refused(preset)}))
    lacking = [row["detail"] for row in rows if "not in" in row["detail"] or "Failed to find" in row["detail"]]
    if lacking:
        sys.exit("\n".join(lacking))  # the stand-in lacks a function: `cann.py` reads its name and adds it


if __name__ == "__main__":
    main()
