"""Latency rows: every shape, phase and repetition once, with plausible clocks."""

import json
from collections import Counter
from pathlib import Path

import pytest
from ptqflow.artifacts.schemas import LATENCY
from ptqflow.artifacts.tables import read_metadata, read_table
from ptqflow.cli import main
from talking_models import talking_model

SETTINGS = {"batch_sizes": [1, 4], "prompt_tokens": [8, 128], "new_tokens": 16, "warmup": 1, "repetitions": 3}


def run(tmp_path: Path, **changes: object) -> tuple[int, Path]:
    manifest, output = talking_model(tmp_path / "model"), tmp_path / "latency.parquet"
    options = ["--platform", "cpu", "--checkpoint", str(manifest), "--output", str(output)]
    return main(["measure", "--settings", json.dumps(SETTINGS | changes), *options]), output


def test_every_repetition_of_every_shape_is_a_row(tmp_path: Path) -> None:
    status, output = run(tmp_path)
    assert status == 0
    rows = read_table(output, LATENCY).to_pylist()
    keys = Counter((row["phase"], row["batch_size"], row["prompt_tokens"], row["repetition"]) for row in rows)
    assert set(keys.values()) == {1}
    assert len(keys) == 2 * 2 * 2 * 3
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 for row in rows)
    assert {row["new_tokens"] for row in rows if row["phase"] == "prefill"} == {0}
    assert {row["new_tokens"] for row in rows if row["phase"] == "decode"} == {16}
    fastest = {
        shape: min(r["seconds"] for r in rows if (r["phase"], r["batch_size"], r["prompt_tokens"]) == shape)
        for shape in {(row["phase"], row["batch_size"], row["prompt_tokens"]) for row in rows}
    }
    assert fastest["decode", 1, 8] > fastest["prefill", 1, 8]  # 16 forwards against one
    assert fastest["prefill", 4, 128] > fastest["prefill", 1, 8]
    assert "threads" in read_metadata(output)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"engine": "abacus"}, "use one of transformers"), ({"prompt_tokens": [600]}, "exceed the model's 512 positions")],
)
def test_impossible_measurements_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], message: str
) -> None:
    status, _ = run(tmp_path, **changes)
    assert status == 2
    assert message in capsys.readouterr().err
