"""`selftest`: probe the device before anything is calibrated on it. A failing probe is a row; whoever relies on it refuses."""

import argparse
import sys
from pathlib import Path

from ptqflow.artifacts import schemas
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.tables import write_rows
from ptqflow.datamodel import Model
from ptqflow.devices.device import PLATFORMS, select
from ptqflow.selftest.probes import everything
from ptqflow.selftest.reliance import said


class Settings(Model):
    """None: a device is probed as it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The device and the output path."""
    parser.add_argument("--platform", choices=PLATFORMS, default="cpu", help="where to compute")
    parser.add_argument(
        "--wiring-only",
        action="store_true",
        help="only how autograd is wired: for a stand-in that computes nothing",
    )
    parser.add_argument("--output", type=Path, required=True, help="one row per probe to write (Parquet)")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Run every probe, write what was found, and say what failed."""
    device = select(args.platform)
    rows = list(everything(device, args.wiring_only))
    for row in rows:
        if row["passed"] is False:
            consequence = f"recipes with {row['relied_on_by']} are refused" if row["relied_on_by"] else "no recipe relies on it"
            print(f"selftest: {row['probe']} on {device.name} failed: {said(row)}; {consequence}", file=sys.stderr)
    origin = provenance("selftest", settings.model_dump(mode="json"), args.code or "", device=device.name)
    write_rows(args.output, schemas.SELFTEST, rows, origin)
