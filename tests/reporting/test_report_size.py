"""The report of the source paper's whole study (samples apart, which are a file of their own) stays under 10 MB."""

import json

import pytest
import yaml
from ptqflow.cli import main
from ptqflow.environments import ROOT
from ptqflow.reporting import catalogue
from synthetic_study import SyntheticStudy, identity, sample

BYTES = 10_000_000
TASKS = 14  # of the two studies together: 6 of reasoning at 3 seeds, 7 of a base model, and an average
STEPS = 420  # of a learned transform, as its preset has them


@pytest.mark.slow
def test_the_papers_whole_study_makes_a_report_under_ten_megabytes(tmp_path):
    """Law: its five models are together no larger than five times the largest, of 64 blocks, with every recipe and seed."""
    paper = yaml.safe_load((ROOT / "config/paper-reasoning.yaml").read_text())
    deepest = max(model["layers"] for model in paper["models"].values())
    study = SyntheticStudy(tmp_path, layers=deepest, chunks=16)
    presets = [recipe["preset"] for recipe in paper["recipes"].values()]
    packed = {"qparams_bytes": 3, "packed_bytes": 15_937, "linear_weights": 30_000, "float_bytes": 60_000}
    for number, recipe in enumerate(["baseline", *presets]):
        who, harm = identity(recipe), 0.01 * number
        study.exported(who, {} if recipe == "baseline" else packed)
        for seed in paper["suites"]["reasoning"]["seeds"]:
            right = [0.85 * (1 - harm) > (7 * i + seed) % 24 / 24 for i in range(24)]
            rows = [sample(f"task-{t}", f"i{i:02d}", r, seed=seed) for t in range(TASKS) for i, r in enumerate(right)]
            study.scored(who, rows, seed=seed)
        study.measured(who, harm)
        if recipe != "baseline":
            study.quantized(who, max(harm, 0.001), STEPS if "flatquant" in recipe else 0)
    study.collected("cpu", "demo", presets)
    assert main(study.arguments(tmp_path / "tables")) == 0
    figures = []
    for figure in catalogue.FIGURES:
        tables = [f"--{n.replace('_', '-')}={tmp_path}/tables/{n}.parquet" for n in catalogue.tables_of(figure)]
        drawn = [str(tmp_path / f"{figure}.{form}") for form in ("svg", "pdf")]
        assert main(["plot", "--settings", json.dumps({"figure": figure}), *tables, "--output", *drawn]) == 0
        figures.append(drawn[0])
    page = tmp_path / "report.html"
    command = ["report", "--settings", "{}", "--tables", str(tmp_path / "tables"), "--captions", str(ROOT / "workflow/report")]
    assert main([*command, "--output", str(page), "--figures", *figures]) == 0
    one = page.stat().st_size
    models = len(paper["models"]) + len(yaml.safe_load((ROOT / "config/paper-qa.yaml").read_text())["models"])
    assert models * one < BYTES, f"one model takes {one:,} bytes"
