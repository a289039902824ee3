"""The collapse detector finds what was planted, and nothing in a recipe that ends as the baseline does."""

import numpy as np
import pytest
from ptqflow.artifacts.schemas import SAMPLES
from ptqflow.artifacts.table_schemas import COLLAPSE
from ptqflow.artifacts.tables import to_table
from ptqflow.reporting import collapse, render, runs
from synthetic_study import sample, served


def said(count=100, loops=0, opens=0, silent=0, cut=0, longer=1.0, seed=0):
    return [
        sample(
            "math", f"i{i:03d}", True, seed=seed, completion_tokens=round((200 + i) * longer), looping=i < loops,
            open_thinking=i < opens, silent=i < silent, finish_reason="length" if i < cut else "stop",
        )
        for i in range(count)
    ]  # fmt: skip


def table(**recipes):
    files = [(served(name), to_table(SAMPLES, rows).select(runs.READS + collapse.READS)) for name, rows in recipes.items()]
    return {row["recipe"]: row for row in collapse.build(files)}


def test_planted_symptoms_are_found_and_named():
    rows = table(
        baseline=said(loops=2, cut=2), same=said(loops=3, cut=3), loops=said(loops=20), opens=said(opens=15, cut=40),
        silent=said(silent=12), long=said(longer=1.3), few=said(loops=6),
    )  # fmt: skip
    assert to_table(COLLAPSE, [{n: r.get(n) for n in COLLAPSE.names} for r in rows.values()]).num_rows == 7
    assert {name: row.get("signs") for name, row in rows.items()} == {
        "baseline": None,
        "same": None,
        "loops": "ends in a loop",
        "opens": "cut at the token limit, thinking never ends",
        "silent": "says nothing",
        "long": "longer",
        "few": None,
    }
    assert rows["loops"]["looping"] == pytest.approx(0.2)
    assert rows["long"]["inflation"] == pytest.approx(1.3, abs=0.01)
    printed = render.markdown([collapse.printed(list(rows.values()))])
    assert "**20.0**" in printed
    assert printed.count("**") == 2 * 5  # each sign once, and nothing else
    assert "**1.30 [1.30, 1.30]**" in printed


def test_without_a_baseline_there_are_shares_and_no_signs():
    (row,) = table(r=said(loops=20)).values()
    assert (row["looping"], row["signs"], row["inflation"]) == (0.2, None, None)
    assert collapse.printed([row]).rows[0][-2:] == ["–", "–"]


def test_length_is_compared_on_the_items_of_both_and_replicates_count_together():
    short = said(50)
    files = [("baseline", 0, said()), ("r", 0, short), ("r", 1, said(50, loops=25))]
    built = collapse.build(
        [
            (served(n).model_copy(update={"replicate": k}), to_table(SAMPLES, rows).select(runs.READS + collapse.READS))
            for n, k, rows in files
        ]
    )
    assert len(built) == 2
    assert built[1]["completions"] == 100
    assert built[1]["looping"] == pytest.approx(0.25)
    assert built[1]["inflation"] == pytest.approx(1)


def test_an_interval_of_few_lengths_holds_that_nothing_changed_and_one_length_tells_nothing():
    """Lengths of an item differ from draw to draw; a plain bootstrap of 3 items holds a ratio of 1 in 75 % of studies."""
    random, found = np.random.default_rng(0), []
    for _ in range(120):
        usual = random.lognormal(7, 0.5, 3)
        drawn = {name: usual * random.lognormal(0, 0.4, 3) for name in ("baseline", "r")}
        rows = {n: [r | {"completion_tokens": round(x)} for r, x in zip(said(3), drawn[n], strict=True)] for n in drawn}
        found.append(table(**rows)["r"])
    assert np.mean([row["inflation_low"] <= 1 <= row["inflation_high"] for row in found]) >= 0.88
    assert np.mean([row["signs"] == "longer" for row in found]) <= 0.05
    alone = table(baseline=said(1), r=said(1, longer=3.0))
    assert (alone["r"]["inflation"], alone["r"].get("inflation_low"), alone["r"]["signs"]) == (3.0, None, None)
    assert "3.00" in render.markdown([collapse.printed(list(alone.values()))])


def test_tasks_that_generate_nothing_have_no_rows():
    choices = [sample("facts", "a", True, kind="choices")]
    assert collapse.build([(served("baseline"), to_table(SAMPLES, choices).select(runs.READS + collapse.READS))]) == []
