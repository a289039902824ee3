"""The cost table says what a solved problem takes, and compares with the baseline only what both were asked."""

import pytest
from ptqflow.artifacts.schemas import SAMPLES
from ptqflow.artifacts.table_schemas import COST
from ptqflow.artifacts.tables import to_table
from ptqflow.evaluation.scoring.verdict import NOT_FINITE
from ptqflow.reporting import accuracy, cost, cost_table, render, runs
from synthetic_study import sample, samples, served


def built(*parts):
    """Rows of COST from (variant, samples), checked against the schema."""
    rows = cost.build([(variant, to_table(SAMPLES, rows)) for variant, rows in parts])
    to_table(COST, rows)
    return {(row["recipe"], row["engine"], row["task"], row["seed"]): row for row in rows}


def asked(solved, seconds, tokens, seed=0, task="math", first=0):
    """Samples of which the first `solved` are right."""
    return [
        sample(task, f"i{first + i}", i < solved, seed=seed, seconds=s, completion_tokens=t)
        for i, (s, t) in enumerate(zip(seconds, tokens, strict=True))
    ]


def test_a_solved_problem_costs_all_the_time_and_tokens_of_the_task():
    rows = built((served("baseline"), asked(2, [1.0, 2.0, 5.0], [10, 30, 80]) + asked(1, [4.0, 4.0, 4.0], [40, 40, 40], seed=1)))
    whole, second = rows["baseline", "transformers", "math", None], rows["baseline", "transformers", "math", 1]
    assert (whole["samples"], whole["solved"], whole["seconds"], whole["tokens"]) == (6, 3, 20.0, 240)
    assert (whole["tokens_per_second"], whole["seconds_per_solved"], whole["tokens_per_solved"]) == (12, 20 / 3, 80)
    assert (second["solved"], second["seconds_per_solved"], second["tokens_per_solved"]) == (1, 12, 120)


def test_nothing_solved_has_no_cost_by_solved_problem():
    row = built((served("rtn"), asked(0, [1.0], [9])))["rtn", "transformers", "math", None]
    assert (row["solved"], row["score"], row["seconds_per_solved"], row["tokens_per_solved"]) == (0, 0, None, None)


def test_ratios_are_of_the_samples_that_both_have_in_one_engine():
    before = asked(3, [1.0, 1.0, 1.0, 50.0], [10, 20, 30, 999])
    after = asked(3, [2.0, 2.0, 5.0], [20, 20, 50]) + asked(1, [77.0], [777], first=9)
    rows = built((served("baseline"), before), (served("rtn"), after), (served("rtn", engine="vllm"), after))
    row = rows["rtn", "transformers", "math", None]
    assert (row["length_ratio"], row["seconds_ratio"]) == (90 / 60, 9 / 3)
    assert rows["baseline", "transformers", "math", None]["length_ratio"] == 1
    assert rows["rtn", "vllm", "math", None]["length_ratio"] is None


def test_scores_are_those_of_the_accuracy_table():
    parts = [(served(recipe), samples(harm, seed)) for recipe, harm in (("baseline", 0.0), ("rtn", 0.3)) for seed in (0, 1)]
    tables = [(variant, to_table(SAMPLES, rows)) for variant, rows in parts]
    scores = {(r["recipe"], r["task"]): r["score"] for r in accuracy.build(runs.gather(tables)) if r["task"] != accuracy.AVERAGE}
    assert {(r["recipe"], r["task"]): pytest.approx(r["score"]) for r in cost.build(tables) if r["seed"] is None} == scores


@pytest.mark.parametrize(
    "broken",
    [
        sample("math", "b", None, unscored=NOT_FINITE.unscored),
        sample("math", "b", None, kind="perplexity", nll=float("nan")),
        sample("math", "b", None, kind="perplexity", nll=1e6),
    ],
    ids=["no verdict", "no loss", "no perplexity"],
)
def test_a_collapsed_model_has_a_cost_and_no_score(broken):
    sound = sample("math", "a", True, kind=broken["kind"], nll=1.0)
    row = built((served("rtn"), [sound, broken]))["rtn", "transformers", "math", None]
    assert (row["score"], row["seconds"]) == (None, 1.0)


def test_text_has_no_solved_problems_and_its_length_is_no_finding():
    parts = [(served(recipe), samples(0.1, 0, tasks=["text", "facts"])) for recipe in ("baseline", "rtn")]
    rows = built(*parts)
    text, facts = rows["rtn", "transformers", "text", None], rows["rtn", "transformers", "facts", None]
    assert (text["solved"], text["seconds_per_solved"], text["length_ratio"], text["seconds_ratio"]) == (None, None, None, 1)
    assert facts["length_ratio"] is None
    assert facts["solved"] > 0


def test_float_simulated_and_real_stand_side_by_side_by_seed():
    def scored(seed, seconds, right):
        text = [sample("text", "0", None, kind="perplexity", nll=255.0, seed=seed, seconds=1.0)]
        return text + asked(right, [seconds] * 4, [10] * 4, seed=seed)

    fake = served("sq")
    real = fake.model_copy(update={"form": "compressed-tensors"})
    parts = [(served("baseline"), scored(42, 1000.0, 3)), (fake, scored(42, 4000.0, 2)), (real, scored(42, 500.0, 2))]
    parts.append((real, asked(4, [1.0] * 4, [10] * 4, seed=43)))
    rows = cost.build([(variant, to_table(SAMPLES, rows)) for variant, rows in parts])
    grid = cost_table.printed(rows)[1]
    assert list(grid.header[6:]) == ["text (perplexity)", "math", "Average"]
    assert [list(row[2:]) for row in grid.rows] == [
        ["float", "–", "transformers", "42", "2.72", "75.0 (1:06:40)", "75.0"],
        ["sq", "fake", "transformers", "42", "2.72", "50.0 (4:26:40)", "50.0"],
        ["sq", "compressed-tensors", "transformers", "42", "2.72", "50.0 (0:33:20)", "50.0"],
        ["sq", "compressed-tensors", "transformers", "43", "n/a", "100.0 (0:00:04)", "100.0"],
    ]
    for write in render.GRIDS.values():
        assert "1:06:40" in write(cost_table.printed(rows))
