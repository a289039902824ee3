"""Recipes compared with each other: what is paired, whose noise counts, and how the matrix reads."""

import numpy as np
import pytest
from ptqflow.artifacts.schemas import SAMPLES
from ptqflow.artifacts.table_schemas import ACCURACY, COMPARISON
from ptqflow.artifacts.tables import read_table, to_table
from ptqflow.cli import main
from ptqflow.errors import ArtifactError
from ptqflow.evaluation import significance
from ptqflow.presets import resolve
from ptqflow.reporting import comparison, render, runs
from ptqflow.reporting.formats import format_of
from synthetic_study import SyntheticStudy, identity, sample, samples, served

ITEMS = 400


def answers(right: np.ndarray) -> list[dict]:
    return [sample(task, f"i{i:04d}", bool(r)) for task in ("hard", "easy") for i, r in enumerate(right)]


def gathered(**recipes: np.ndarray):
    files = [
        (served(name), to_table(SAMPLES, answers(right)).select(runs.READS))
        for name, right in {"baseline": np.ones(ITEMS), **recipes}.items()
    ]
    return runs.gather(files)


def losing(count: int, first: int = 0) -> np.ndarray:
    """All right but `count` items from `first` on."""
    right = np.ones(ITEMS)
    right[first : first + count] = 0
    return right


def test_pairs_are_compared_on_their_own_items_by_task_and_on_average():
    rows = comparison.build(gathered(a=losing(40), b=losing(60), c=losing(40, 200)))
    assert [(r["recipe"], r["other_recipe"], r["task"]) for r in rows][:4] == [
        ("a", "b", "hard"), ("a", "b", "easy"), ("a", "b", "average"), ("a", "c", "hard"),
    ]  # fmt: skip
    assert len(rows) == 9
    assert to_table(COMPARISON, rows).num_rows == 9
    found = {(r["recipe"], r["other_recipe"]): r for r in rows if r["task"] == "average"}
    assert found["a", "b"]["difference"] == pytest.approx(5)
    assert found["a", "b"]["p_better"] > 0.99
    assert found["a", "c"]["difference"] == 0
    assert found["a", "c"]["p_better"] == pytest.approx(0.5, abs=0.05)
    widths = [found[pair]["difference_high"] - found[pair]["difference_low"] for pair in (("a", "b"), ("a", "c"))]
    assert widths[0] < widths[1]  # a loses no item that b keeps; a and c disagree on eighty


def test_overlapping_drops_may_differ_beyond_doubt_and_far_ones_need_more_items():
    """Ten items that only one of them loses are clear, though both drops have intervals of several points."""
    rows = comparison.build(gathered(a=losing(100), b=losing(112), d=losing(101)), exact={served(n) for n in "abd"})
    found = {(r["recipe"], r["other_recipe"]): r for r in rows if r["task"] == "average"}
    assert found["a", "b"]["p_holm"] < 0.01
    assert found["a", "b"]["needed_items"] is None
    assert found["a", "d"]["p_holm"] > 0.05
    assert found["a", "d"]["needed_items"] is None or found["a", "d"]["needed_items"] > 2 * ITEMS


def test_matrix_reads_from_both_sides():
    rows = comparison.build(gathered(a=losing(40), b=losing(80)))
    (grid,) = comparison.printed(rows)
    assert grid.header == ["Recipe", "a", "b"]
    assert grid.rows[0] == ["a", "–", "+10.0 (> 99 %)"]
    assert grid.rows[1] == ["b", "−10.0 (< 1 %)", "–"]
    assert isinstance(grid.rows[0][2], render.Bold)


def test_recipes_of_different_tasks_have_no_average_to_compare_and_that_is_said():
    right = answers(losing(4))
    given = {"baseline": right, "a": right, "b": right[:ITEMS], "c": right[:ITEMS]}
    rows = comparison.build(
        runs.gather([(served(name), to_table(SAMPLES, said).select(runs.READS)) for name, said in given.items()])
    )
    assert {r["task"] for r in rows} == {"hard"}
    (grid,) = comparison.printed(rows)
    assert grid.rows == []
    assert grid.notes == ["No two recipes have a score on every task, so none of their averages can be compared."]


def test_recipes_that_lack_a_task_are_named_beside_those_that_are_compared(many):
    right = answers(losing(4))
    given = {"baseline": right, "a": right, "b": right, "c": right[:ITEMS]}
    rows = comparison.build(
        runs.gather([(served(name), to_table(SAMPLES, said).select(runs.READS)) for name, said in given.items()])
    )
    (grid,) = comparison.printed(rows)
    assert grid.header == ["Recipe", "a", "b"]
    assert grid.notes[-1] == "Not compared, for want of a score on every task: c.fake."
    partly = [row for row in many if row["task"] != "average" or "other1" not in (row["recipe"], row["other_recipe"])]
    assert comparison.printed(partly)[0].notes[-1] == "Not compared, for want of a score on every task: other1.fake."
    assert not any("want" in note for grid in comparison.printed(many) for note in grid.notes)


def test_a_difference_has_one_interval_from_either_side():
    """Four replicates beside one: the noise of an item is theirs, whichever comes first."""
    random = np.random.default_rng(0)
    draws = {"a": [random.random(ITEMS) > 0.3 for _ in range(4)], "b": [random.random(ITEMS) > 0.1]}
    found = {}
    for order in ("ab", "ba"):
        tables = [
            (served(name).model_copy(update={"replicate": i}), to_table(SAMPLES, answers(right)).select(runs.READS))
            for name in order
            for i, right in enumerate(draws[name])
        ]
        found[order] = next(r for r in comparison.build(runs.gather(tables)) if r["task"] == "hard")
    ab, ba = found["ab"], found["ba"]
    ends = [(r["difference"], r["difference_low"], r["difference_high"], r["p_better"]) for r in (ab, ba)]
    mirrored = (-ends[1][0], -ends[1][2], -ends[1][1], 1 - ends[1][3])
    assert ends[0] == pytest.approx(mirrored, abs=0.25)  # but for the draws of the posterior


def test_one_recipe_has_nothing_to_compare_with():
    assert comparison.build(gathered(a=losing(4))) == []
    assert comparison.printed([])[0].rows == []


def test_draws_of_both_recipes_widen_their_difference():
    recipes = gathered(a=losing(40), b=losing(60))
    exact = comparison.build(recipes, exact={served("a"), served("b")})
    one, both = comparison.build(recipes, exact={served("a")}), comparison.build(recipes)
    widths = [rows[2]["difference_high"] - rows[2]["difference_low"] for rows in (exact, one, both)]
    assert widths == sorted(widths)
    assert len(set(widths)) == 3


def formats_of(*presets: str) -> list[str]:
    return [format_of(resolve({"preset": preset})) for preset in presets]


def test_recipes_of_equal_bits_and_groups_have_one_format_whatever_their_method_and_name():
    assert set(formats_of("rtn-w4a16", "awq-gptq-w4a16", "rotate-gptq-w4a16")) == {"W4A16 g128"}
    assert formats_of("hqq-w4a16", "awq-w3a16") == ["W4A16 g64", "W3A16 g128"]
    assert set(formats_of("smoothquant-w8a8", "rtn-w8a8-ascend", "smoothquant-w8a8-static-ascend")) == {"W8A8"}
    assert set(formats_of("smoothquant-w8a8kv8", "smoothquant-w8a8kv8-ascend")) == {"W8A8KV8"}
    assert set(formats_of("rtn-w4a4kv4", "flatquant-w4a4kv4")) == {"W4A4KV4"}
    assert format_of(resolve({"scheme": {"kv_cache": {"num_bits": 8, "value_bits": 4}}})) == "K8V4"


def test_overrides_that_cost_bits_are_part_of_a_format():
    assert formats_of("flatquant-w4a4-ascend", "vendor-w8a8") == ["W4A4, down_proj o_proj W8A8", "W8A8, down_proj W16A16"]
    changed = {"layers": [3, 1], "weights": {"num_bits": 8, "strategy": "group", "group_size": 32}}
    recipe = {"preset": "flatquant-w4a4kv4", "overrides": [changed, {"transform": {"epochs": 9}}]}
    assert format_of(resolve(recipe)) == "W4A4KV4, all of layers 1 3 W8A4 g32"


def test_overrides_that_come_to_the_same_are_one_format_however_they_are_written():
    def of(*overrides):
        return format_of(resolve({"preset": "gptq-w4a16", "overrides": list(overrides)}))

    eight = {"weights": {"num_bits": 8, "strategy": "channel"}}
    four = {"weights": {"num_bits": 4, "strategy": "group", "group_size": 128, "symmetric": True}}
    o, down, first = ({"linears": ["o_proj"]}, {"linears": ["down_proj"]}, {"layers": [0]})
    both = "W4A16 g128, down_proj o_proj W8A16"
    assert {of(o | eight, down | eight), of(down | eight, o | eight), of(eight, four, down | eight, o | eight)} == {both}
    assert of(first | four) == "W4A16 g128", "as the scheme says, but for the zero points"
    assert of(o | eight, first | four) == "W4A16 g128, o_proj W8A16, o_proj of layers 0 W4A16 g128"
    assert of(o | first | eight, down | {"layers": [2]} | eight, o | {"layers": [2]} | eight) == (
        "W4A16 g128, o_proj of layers 0 W8A16, down_proj o_proj of layers 2 W8A16"
    )


MANY = {"a": losing(60), "b": losing(40), "c": losing(41, 4)} | {f"other{i}": losing(8 * i) for i in range(comparison.FEW - 2)}


@pytest.fixture(scope="module")
def many():
    """Recipes a, b and c of one format, and each of the others of another."""
    formats = {served(name).variant: "W4A16 g128" if name in "abc" else f"W{name}" for name in MANY}
    return comparison.build(gathered(**MANY), exact={served(name) for name in MANY}, formats=formats)


def test_many_recipes_are_compared_within_their_format_and_each_with_the_baseline(many):
    averages = [r for r in many if r["task"] == "average"]
    pairs = {(r["recipe"], r["other_recipe"]): r["format"] for r in averages}
    against = {("baseline", name): "W4A16 g128" if name in "abc" else f"W{name}" for name in MANY}
    assert pairs == against | dict.fromkeys([("a", "b"), ("a", "c"), ("b", "c")], "W4A16 g128")
    for family in ([r for r in averages if (r["recipe"] == "baseline") == baseline] for baseline in (True, False)):
        assert [r["p_holm"] for r in family] == pytest.approx(significance.holm([r["p_value"] for r in family]))
    assert to_table(COMPARISON, many).num_rows == len(many)


def test_of_many_recipes_the_page_says_what_is_best_in_each_format_and_has_a_matrix_of_those_that_have_several(many):
    best, matrix = comparison.printed(many)
    assert best.header == ["Format", "Best", "Not told from it", "Recipes", "Best against baseline"]
    assert len(best.rows) == len(MANY) - 2
    assert best.rows[0][:4] == ["W4A16 g128", "b", "c", "3"]
    assert best.rows[1][:4] == ["Wother0", "other0", "–", "1"]
    assert matrix.title == "W4A16 g128: is the row better than the column? cpu, demo, transformers"
    assert matrix.header == ["Recipe", "baseline", "b", "c", "a"]
    (row,) = [r for r in many if (r["recipe"], r["other_recipe"], r["task"]) == ("a", "b", "average")]
    ends = [f"{abs(row[end]):.1f}" for end in ("difference_low", "difference_high")]
    assert matrix.rows[3][2] == f"−5.0 [−{ends[0]}, −{ends[1]}]"
    assert matrix.rows[1][4] == f"+5.0 [{ends[1]}, {ends[0]}]"
    assert isinstance(matrix.rows[1][4], render.Bold)
    assert not isinstance(matrix.rows[1][3], render.Bold)


def test_of_many_recipes_one_whose_cost_is_unknown_is_refused():
    with pytest.raises(ArtifactError, match=r"cpu/demo/a\.fake .*: what it costs is not known"):
        comparison.build(gathered(**MANY))


def test_formats_are_those_of_the_checkpoints_and_drops_those_of_the_accuracy_table(tmp_path, monkeypatch):
    """Of a recipe that was rescued, with the bits that the rescue took."""
    monkeypatch.setattr(comparison, "FEW", 2)
    study = SyntheticStudy(tmp_path)
    sizes = {"qparams_bytes": 3, "packed_bytes": 2, "linear_weights": 3, "float_bytes": 6}
    eight = {"layers": [1], "linears": ["o_proj"], "weights": {"num_bits": 8, "strategy": "channel"}}
    made = {"baseline": {}, "rtn-w4a16": sizes, "awq-w4a16": sizes, "flatquant-w4a4kv4": sizes | {"rescued": [eight]}}
    for i, (recipe, origin) in enumerate(made.items()):
        study.exported(identity(recipe), origin)
        study.scored(identity(recipe), samples(0.1 * i, 0))
    assert main(study.arguments(tmp_path / "tables")) == 0
    rows = read_table(tmp_path / "tables/comparison.parquet", COMPARISON).to_pylist()
    assert {(r["recipe"], r["other_recipe"]): r["format"] for r in rows} == {
        ("baseline", "rtn-w4a16"): "W4A16 g128",
        ("baseline", "awq-w4a16"): "W4A16 g128",
        ("baseline", "flatquant-w4a4kv4"): "W4A4KV4, o_proj of layers 1 W8A4",
        ("rtn-w4a16", "awq-w4a16"): "W4A16 g128",
    }
    drops = {(r["recipe"], r["task"]): r for r in read_table(tmp_path / "tables/accuracy.parquet", ACCURACY).to_pylist()}
    for row in rows:
        if row["recipe"] == "baseline":
            drop = drops[row["other_recipe"], row["task"]]
            assert [row[c] for c in ("difference", "difference_low", "difference_high", "p_value")] == [
                drop[c] for c in ("drop", "drop_low", "drop_high", "p_value")
            ]


def test_a_format_is_known_of_a_recipe_whose_own_draw_is_not_there(tmp_path, monkeypatch):
    """As of another platform's results, where the job of one draw failed."""
    monkeypatch.setattr(comparison, "FEW", 1)
    study = SyntheticStudy(tmp_path)
    sizes = {"qparams_bytes": 3, "packed_bytes": 2, "linear_weights": 3, "float_bytes": 6}
    draws = [identity("gptq-w4a16"), identity("awq-w4a16") | {"replicate": 1}]
    for i, (who, origin) in enumerate([(identity("baseline"), {}), *((who, sizes) for who in draws)]):
        study.exported(who, origin)
        study.scored(who, samples(0.1 * i, 0))
    assert main(study.arguments(tmp_path / "tables")) == 0
    rows = read_table(tmp_path / "tables/comparison.parquet", COMPARISON).to_pylist()
    assert {row["format"] for row in rows} == {"W4A16 g128"}
