"""`ptqflow card CHECKPOINT`: the model card of a study's checkpoint, with what the study measured since it was written.

A card is written before anything is scored, and its folder's manifest knows its bytes; so the fuller one goes elsewhere.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptqflow.artifacts.atomic import write_text
from ptqflow.artifacts.models import CARD
from ptqflow.checkpoints.card import UNSCORED
from ptqflow.errors import ConfigError

EXAMPLES = """examples:
  ptqflow card results/cpu/checkpoints/demo/awq-w4/compressed-tensors
  ptqflow card results/cpu/checkpoints/demo/awq-w4/compressed-tensors --out README.md   for an upload
"""
_COLUMNS = ["platform", "model", "recipe", "form", "engine", "task", "metric", "items", "seeds"]
_NUMBERS = ["score", "score_low", "score_high", "drop", "drop_low", "drop_high"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The checkpoint, and where the card goes."""
    parser.add_argument("checkpoint", type=Path, help="folder results/PLATFORM/checkpoints/MODEL/RECIPE/FORM of a study")
    parser.add_argument("--out", type=Path, help="file to write (default: print)")


def run(args: argparse.Namespace) -> None:
    """Put the scores of the checkpoint's recipe into its card."""
    folder: Path = args.checkpoint.resolve()
    try:
        results, platform, place, model, recipe, form = (folder.parents[4], *folder.parts[-5:])
        text = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, ValueError, IndexError):
        raise ConfigError(f"{args.checkpoint} is no checkpoint of a study (PLATFORM/checkpoints/MODEL/RECIPE/FORM)") from None
    table = results / "tables/accuracy.parquet"
    if place != "checkpoints" or not table.is_file():
        raise ConfigError(f"{table} does not exist, so nothing was scored; `ptqflow run` makes it")
    scored = text.replace(UNSCORED, _scores(table, {"platform": platform, "model": model, "recipe": recipe}, form))
    if args.out is None:
        print(scored, end="")
    else:
        write_text(args.out, scored)


def _scores(file: Path, who: Mapping[str, str], form: str) -> str:
    import pyarrow.parquet as pq

    rows = pq.read_table(file, columns=[*_COLUMNS, *_NUMBERS]).to_pylist()
    mine = [row for row in rows if row["score"] is not None and all(row[key] == value for key, value in who.items())]
    if not mine:
        return UNSCORED
    measured = form if any(row["form"] == form for row in mine) else mine[0]["form"]
    head = "" if measured == form else f"Measured on form `{measured}` of the same integers and scales, not on this one.\n\n"
    lines = ["| task | engine | score | drop against the float model | items x seeds |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['task']} ({row['metric']}) | {row['engine']} | {_interval(row, 'score')} | {_interval(row, 'drop')} "
        f"| {row['items']} x {row['seeds']} |"
        for row in mine
        if row["form"] == measured
    ]
    note = "In brackets: 95 % intervals. Accuracy in percent, its drop in points; of perplexity the drop is its rise in percent."
    return head + "\n".join(lines) + f"\n\n{note}"


def _interval(row: Mapping[str, Any], key: str) -> str:
    if row[key] is None:
        return "–"
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return f"{row[key]:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low is not None else "")
