"""Outliers of activations are told from the statistics that `collect` left, site by site, and of the right model alone."""

import numpy as np
import pytest
from ptqflow.artifacts.schemas import STATISTICS
from ptqflow.artifacts.table_schemas import OUTLIERS
from ptqflow.artifacts.tables import read_table, to_table
from ptqflow.cli import main
from ptqflow.reporting import outliers
from ptqflow.reporting.variants import Collected
from synthetic_study import HARM, SyntheticStudy, channels, identity

WHO = Collected(platform="cpu", model="demo", rotation="hadamard", calibration="traces", recipes=("a",))


def built(rows):
    return outliers.build([(WHO, to_table(STATISTICS, rows).select(outliers.READS))])


def test_one_large_channel_is_named_with_its_ratio_and_its_share():
    rows = built(channels(3, width=16, far=50.0))
    assert [(r["layer"], r["site"]) for r in rows] == [(layer, site) for layer in range(3) for site in ("qkv", "down")]
    even, far = rows[:2]
    assert (even["ratio"], even["far_channels"], even["kurtosis"], even["energy_share"]) == (1, 0, 3, 1 / 16)
    assert (far["channel"], far["ratio"], far["far_channels"], far["channels"]) == (3, 50, 1, 16)
    assert far["energy_share"] == pytest.approx(2500 / 2515)
    assert far["peak_to_rms"] == pytest.approx(150 / (2515 / 16) ** 0.5)
    down = outliers.printed(rows).rows[1]
    assert down[:8] == ["cpu", "demo", "hadamard", "traces", "down", "50.0", "50.0", "0"]
    assert down[-1] == "3 (3 of 3)"


def test_kurtosis_is_that_of_values_normal_in_each_channel():
    """Law: of drawn elements the fourth moment over the squared second is what the second moments of channels say."""
    rng = np.random.default_rng(0)
    spreads = rng.uniform(0.2, 5, 40)
    drawn = rng.normal(0, spreads, (100_000, 40))
    moments = (drawn**2).mean(0)
    rows = [
        {"layer": 0, "site": "qkv", "channel": i, "absmax": 9.0, "mean_abs": 1.0, "mean": 0.0, "second_moment": m}
        for i, m in enumerate(moments)
    ]
    (row,) = built(rows)
    assert row["kurtosis"] == pytest.approx((drawn**4).mean() / (drawn**2).mean() ** 2, rel=0.02)


def test_a_site_of_zeros_has_no_ratio_and_is_printed():
    (zeros,) = built([row | {"absmax": 0.0, "second_moment": 0.0} for row in channels(1)[:16]])
    assert {zeros[name] for name in ("ratio", "peak_to_rms", "kurtosis", "energy_share")} == {None}
    assert outliers.printed([zeros]).rows[0][5:8] == ["–"] * 3


def test_statistics_of_another_model_are_refused(tmp_path, capsys):
    study = SyntheticStudy(tmp_path)
    recipe = next(iter(HARM))
    study.exported(identity("baseline"), {})
    study.exported(identity(recipe), {"inputs": {"model": {"model.safetensors": "2" * 64}}})
    study.collected("cpu", "demo", [recipe])
    study.settings["checkpoints"], study.paths["checkpoints"] = [
        kept[1:] for kept in (study.settings["checkpoints"], study.paths["checkpoints"])
    ]
    assert main(study.arguments(tmp_path / "tables")) == 2
    assert "was made from another model" in capsys.readouterr().err


def test_damaged_statistics_are_refused(tmp_path, capsys):
    study = SyntheticStudy(tmp_path)
    study.collected("cpu", "demo", [])
    path = tmp_path / "calibration/cpu/demo/statistics.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert main(study.arguments(tmp_path / "tables")) == 2
    assert "statistics.parquet" in capsys.readouterr().err


def test_the_table_has_a_row_for_each_block_and_site(tmp_path):
    study = SyntheticStudy(tmp_path)
    study.collected("cpu", "demo", [])
    assert main(study.arguments(tmp_path / "tables")) == 0
    assert read_table(tmp_path / "tables/outliers.parquet", OUTLIERS).num_rows == 4 * 2
