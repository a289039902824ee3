"""Recipes compared with each other: what is paired, whose noise counts, and how the matrix reads."""

import numpy as np
import pytest
from ptqflow.artifacts.schemas import SAMPLES
from ptqflow.artifacts.table_schemas import COMPARISON
from ptqflow.artifacts.tables import to_table
from ptqflow.reporting import comparison, render, runs
from synthetic_study import sample, served

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
