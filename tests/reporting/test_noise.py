"""The noise floor of a baseline: nothing where answers repeat, and what two runs differ by where they do not."""

import numpy as np
import pytest
from ptqflow.artifacts.schemas import SAMPLES
from ptqflow.artifacts.table_schemas import NOISE
from ptqflow.artifacts.tables import to_table
from ptqflow.reporting import accuracy, accuracy_table, noise, render, runs
from ptqflow.reporting.variants import Scores
from synthetic_study import sample, served

ITEMS = 200


def answered(right, task="math", seed=0):
    return [sample(task, f"i{i:03d}", bool(r), seed=seed) for i, r in enumerate(right)]


def gathered(*files):
    return runs.gather([(variant, to_table(SAMPLES, rows).select(runs.READS)) for variant, rows in files])


def sampled(seeds, random, chance):
    return [row for seed in range(seeds) for row in answered(random.random(ITEMS) < chance, seed=seed)]


def test_greedy_runs_repeat_themselves():
    right = np.arange(ITEMS) % 3 > 0
    rows = noise.build(gathered((served("baseline"), answered(right) + answered(right, seed=1))))
    assert [(r["task"], r["kind"], r["changed"], r["floor"]) for r in rows] == [(t, "seeds", 0, 0) for t in ("math", "average")]


@pytest.mark.parametrize("seeds", [2, 4])
def test_floor_holds_nineteen_of_twenty_differences_of_a_model_from_itself(seeds):
    random = np.random.default_rng(0)
    chance = random.beta(2, 1, ITEMS)
    floors = [noise.build(gathered((served("baseline"), sampled(seeds, random, chance))))[0]["floor"] for _ in range(10)]
    runs_of = [np.mean([random.random(ITEMS) < chance for _ in range(seeds)]) for _ in range(800)]
    differences = 100 * np.abs(np.array(runs_of[::2]) - np.array(runs_of[1::2]))
    assert 0.92 <= np.mean(differences < np.mean(floors)) <= 0.98


def test_engines_and_platforms_are_compared_with_each_other_and_each_alone():
    right = np.ones(ITEMS)
    other = right.copy()
    other[:8] = 0
    files = [
        (served("baseline"), answered(right)),
        (served("baseline", engine="vllm"), answered(other)),
        (served("baseline", platform="gpu"), answered(right)),
        (served("rtn"), answered(other)),
    ]
    rows = noise.build(gathered(*files))
    assert to_table(NOISE, rows).num_rows == 8
    by = {(r["platform"], r["engine"], r["kind"], r["other"]): r for r in rows if r["task"] == "math"}
    engines = by["cpu", "transformers", "engines", "vllm"]
    assert (engines["changed"], engines["difference"]) == (0.04, 4)
    assert engines["floor"] == pytest.approx(100 * 1.96 * (0.04 / ITEMS) ** 0.5, rel=1e-3)
    assert by["cpu", "transformers", "platforms", "gpu"]["floor"] == 0
    assert ("gpu", "transformers", "engines", "vllm") not in by


def test_floor_stands_beside_every_drop():
    random = np.random.default_rng(1)
    files = [
        (served(recipe), [row | {"task": task} for task in ("a", "b") for row in sampled(2, random, np.full(ITEMS, 0.7))])
        for recipe in ("baseline", "rtn")
    ]
    found = gathered(*files)
    floors = noise.build(found)
    assert {row["task"] for row in floors} == {"a", "b", "average"}
    rows = noise.beside(accuracy.build(found), floors)
    assert all(row["noise_floor"] > 0 for row in rows)
    average = next(row for row in floors if row["task"] == "average")["floor"]
    grids = accuracy_table.printed(rows)
    assert f"±{average:.1f}" in grids[0].rows[1]
    assert grids[1].rows[0][-2].startswith("±")
    assert "±" in render.markdown([noise.printed(floors)])


def test_a_variant_of_fewer_seeds_has_the_floor_of_so_many():
    random = np.random.default_rng(2)
    files = [
        (served(recipe), sampled(seeds, random, np.full(ITEMS, 0.7))) for recipe, seeds in (("baseline", 4), ("a", 4), ("b", 1))
    ]
    found = gathered(*files)
    floors = {row["recipe"]: row["noise_floor"] for row in noise.beside(accuracy.build(found), noise.build(found))}
    assert floors["a"] == floors["baseline"]
    assert floors["b"] == pytest.approx(2 * floors["a"])


def test_nothing_run_twice_says_what_to_do():
    assert noise.build(gathered((served("baseline"), answered(np.ones(ITEMS))))) == []
    assert "second seed" in render.markdown([noise.printed([])])


def test_other_batches_are_a_floor_of_greedy_runs():
    right = np.arange(ITEMS) % 3 > 0
    turned = right.copy()
    turned[:6] = ~turned[:6]
    entry = Scores(**served("baseline").model_dump(), task="math", seed=0)
    scored = [
        (one, to_table(SAMPLES, answered(rows)))
        for one, rows in ((entry, right), (entry.model_copy(update={"batch_size": 16}), turned))
    ]
    rows = noise.build(gathered((served("baseline"), answered(right))), noise.repeated(scored))
    assert [(r["kind"], r["other"], r["changed"]) for r in rows] == [("batches", "16", 6 / ITEMS)] * 2
    assert rows[0]["floor"] == pytest.approx(100 * 1.96 * (6 / ITEMS / ITEMS) ** 0.5, rel=1e-3)
    drops = noise.beside(accuracy.build(gathered((served("baseline"), answered(right)), (served("rtn"), answered(turned)))), rows)
    assert {row["noise_floor"] for row in drops} == {rows[0]["floor"]}  # of an average over one task, too
