"""The answer: nothing is recommended that an interval does not carry, and every other variant is accounted for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptqflow.artifacts.table_schemas import ANSWER
from ptqflow.artifacts.tables import to_table
from ptqflow.decide import Decide
from ptqflow.reporting import answer, answer_text
from ptqflow.reporting.frontier import frontier
from pydantic import ValidationError

FORM = "compressed-tensors"
NEEDED = dict.fromkeys(("needed_items", "needed_seeds", "needed_replicates", "needed_together"))


def variant(recipe, form=FORM, platform="cpu", model="demo"):
    return {"platform": platform, "model": model, "recipe": recipe, "form": None if recipe == "baseline" else form}


def scored(recipe, p=None, drop=0.5, form="fake", engine="transformers", **more):
    row = {**variant(recipe, form), "engine": engine, "task": "average", "metric": "accuracy", "items": 700, "replicates": 1}
    row |= {"score": 85.0 - drop, "drop": None if p is None else drop, "drop_low": drop - 1, "drop_high": drop + 1}
    return row | {"replicate_sd": None, "p_within": p, "doubt": None, **NEEDED, "collapsed": False, "note": None} | more


def sized(recipe, size, form=FORM, packed=None, **more):
    return {**variant(recipe, form), "bytes": size, "packed_bytes": packed, **more}


def timed(recipe, rate, form=FORM, spread=0.0, **more):
    row = {**variant(recipe, form), "engine": "transformers", "phase": "decode", "batch_size": 8, "tokens_per_second": rate}
    return row | {"seconds_median": 1.0, "seconds_min": 1 - spread, "seconds_max": 1 + spread} | more


def rows(accuracy, sizes, decide=None, **more):
    found = answer.build(
        answer.Tables([scored("baseline"), *accuracy], [sized("baseline", 1000), *sizes], **more), decide or Decide()
    )
    assert to_table(ANSWER, found).num_rows == len(found)
    return found


def by_recipe(found):
    return {r["recipe"]: r for r in found}


def first(found):
    (said,) = answer_text.said(found)
    return said


def test_the_smallest_that_meets_all_is_recommended_with_its_doubts_and_the_runner_up():
    found = rows(
        [scored("a", 0.95), scored("b", 0.99)], [sized("a", 300), sized("b", 400)], serving={(*variant("a").values(),): "go"}
    )
    assert [(r["rank"], r["recipe"]) for r in found] == [(1, "a"), (2, "b"), (3, "baseline")]
    said = first(found)
    assert said.recommendation.startswith("Deploy a as compressed-tensors: it loses 0.5 points (95 % interval −0.5 to 1.5)")
    assert said.recommendation.endswith("30 % of the unquantized model.")
    assert "scored as an emulation" in said.doubts
    assert "speed was not measured" in said.doubts
    assert said.runner_up.startswith("b as compressed-tensors meets the constraints, too")
    assert said.serve == "go"


def test_a_task_whose_items_stand_in_the_calibration_set_is_a_doubt():
    accuracy = [scored("a", 0.95), scored("a", task="facts"), scored("b", 0.95), scored("b", task="facts")]
    accuracy += [scored("a", task="text", metric="perplexity"), scored("a", task="facts", engine="vllm")]
    said = dict.fromkeys([("demo", "a", "facts"), ("demo", "a", "text"), ("demo", "a", "other")], "5 of 9 items stand in it")
    found = by_recipe(rows(accuracy, [sized("a", 300), sized("b", 400)], touched=said))
    assert found["a"]["doubts"].count("5 of 9") == 1
    assert "; on facts: 5 of 9 items stand in it;" in found["a"]["doubts"]
    assert "5 of 9" not in found["b"]["doubts"]
    exact = rows(accuracy, [sized("a", 300)], touched=said, exact=[("cpu", "demo", "a")])
    assert "5 of 9" not in by_recipe(exact)["a"]["doubts"]  # plain rounding reads no calibration set


def test_undecided_stays_undecided_and_the_unquantized_model_is_kept():
    found = rows([scored("a", 0.63, needed_items=900)], [sized("a", 300)])
    assert by_recipe(found)["a"]["status"] == "undecided"
    said = first(found)
    assert said.recommendation.startswith(
        "Keep the unquantized model: no recipe that can be served is shown to lose at most 1.0 point"
    )
    assert "a as compressed-tensors is undecided" in said.runner_up
    assert "900 items would decide it" in said.runner_up


def test_items_needed_are_for_the_class_and_not_said_of_another_bound():
    found = rows([scored("a", 0.63, needed_items=900)], [sized("a", 300)], Decide(max_drop=2))
    assert "900" not in by_recipe(found)["a"]["reasons"]


def test_thin_evidence_is_no_evidence():
    found = rows([scored("a", 0.999, doubt="5 items, fewer than 30")], [sized("a", 300)])
    assert by_recipe(found)["a"]["status"] == "undecided"
    assert "too thin (5 items" in by_recipe(found)["a"]["reasons"]


def test_equal_sizes_are_a_tie_that_is_said_and_the_baseline_wins_its_own():
    found = rows([scored("a", 0.95), scored("b", 0.97), scored("c", 0.99)], [sized("a", 300), sized("b", 300), sized("c", 1000)])
    assert [r["recipe"] for r in found] == ["b", "a", "baseline", "c"]
    assert "of the same size" in first(found).runner_up
    kept = rows([scored("c", 0.99)], [sized("c", 1000)])
    assert (
        first(kept).recommendation
        == "Keep the unquantized model: c as compressed-tensors meets the constraints, but is no smaller."
    )


def test_a_recipe_that_loses_little_and_is_too_slow_is_not_said_to_lose_much():
    latency = [timed("a", 50), timed("baseline", 200)]
    found = rows([scored("a", 0.99)], [sized("a", 300)], Decide(min_tokens_per_second=100), latency=latency)
    assert by_recipe(found)["a"]["status"] == "excluded"
    assert first(found).recommendation == "Keep the unquantized model: no recipe is shown to meet every constraint."


def test_what_was_asked_is_said_as_it_was_asked_and_no_speed_is_none():
    decide = Decide(max_drop=0.25, probability=0.995, min_tokens_per_second=0.5)
    found = by_recipe(rows([scored("a", 0.992)], [sized("a", 300)], decide, latency=[timed("a", 0.4)]))["a"]
    assert found["reasons"] == "decodes 0.40 tokens/s (0.40 to 0.40, batch 8), 0.5 asked"
    assert "at most 0.25 points with probability above 99 %, 99.5 % asked" in found["doubts"]
    assert "at most 0.25 points with a probability of 99.5 % or more" in first([found]).recommendation
    over = rows([scored("a", 0.99)], [sized("a", 2**32 + 1)], Decide(max_bytes=2**32))
    assert by_recipe(over)["a"]["reasons"] == "4294967297 bytes on disk (4.00 GiB), more than the 4294967296 allowed"


def test_nothing_meets_the_constraints():
    found = rows([scored("a", 0.01, drop=9)], [sized("a", 300)], Decide(max_bytes=500))
    assert {r["recipe"]: r["status"] for r in found} == {"a": "excluded", "baseline": "excluded"}
    assert first(found).recommendation.startswith("Nothing is shown to meet the constraints")
    assert first(found).serve is None


def test_missing_latency_is_open_and_an_emulation_has_no_speed():
    fast = Decide(min_tokens_per_second=100)
    accuracy, sizes = [scored("a", 0.95)], [sized("a", 300)]
    assert by_recipe(rows(accuracy, sizes, fast, latency=[timed("a", 900, "fake")]))["a"]["status"] == "undecided"
    assert by_recipe(rows(accuracy, sizes, fast, latency=[timed("a", 900)]))["a"]["status"] == "meets"
    assert by_recipe(rows(accuracy, sizes, fast, latency=[timed("a", 50)]))["a"]["status"] == "excluded"
    assert by_recipe(rows(accuracy, sizes, fast, latency=[timed("a", 105, spread=0.2)]))["a"]["status"] == "undecided"


def test_what_a_checkpoint_notes_is_doubted_as_its_rescue_left_it_and_attempts_take_their_time():
    layer = {**variant("a"), "chunk": 0, "layer": 0, "module": "block", "seconds": 1.0, "peak_bytes": 1}
    layers = [layer | {"layer": i, "fallback": "no transform", "warning": "unseen"} for i in range(3)]  # the first calibration's
    attempts = [{**variant("a"), "layer": 0, "kept": kept, "fallback": None, "seconds": 2.0} for kept in (False, True)]
    noted = {tuple(variant("a").values()): {"fallbacks": {"no transform": 1}, "warnings": {"unseen": 1, "learned nothing": 1}}}
    found = by_recipe(rows([scored("a", 0.95)], [sized("a", 300)], layer_error=layers, rescue=attempts, noted=noted))["a"]
    assert found["quantize_seconds"] == 3 * 1.0 + 2 * 2.0
    assert "; a linear or block is not as the recipe says; 2 linears or blocks are doubtful (" in found["doubts"]


def test_another_draw_is_missed_only_where_something_is_drawn():
    accuracy, sizes = [scored("a", 0.95)], [sized("a", 300)]
    assert "one calibration draw" in by_recipe(rows(accuracy, sizes))["a"]["doubts"]
    assert "one calibration draw" not in by_recipe(rows(accuracy, sizes, exact={("cpu", "demo", "a")}))["a"]["doubts"]


def test_what_no_engine_serves_is_excluded_however_accurate():
    found = rows([scored("a", 0.99)], [sized("a", 300, "fake")])
    assert by_recipe(found)["a"]["status"] == "excluded"
    assert "only its emulation was written; no form that is asked for (key forms) holds it" in by_recipe(found)["a"]["reasons"]


def test_a_checkpoint_scored_itself_speaks_for_itself():
    found = rows([scored("a", 0.99), scored("a", 0.02, drop=8, form=FORM)], [sized("a", 300)])
    assert by_recipe(found)["a"]["scored_form"] == FORM
    assert by_recipe(found)["a"]["status"] == "excluded"


def test_a_checkpoint_scored_on_part_of_the_tasks_leaves_the_word_to_its_emulation():
    part = scored("a", form=FORM, note="no average: t: not evaluated")
    found = by_recipe(rows([scored("a", 0.99), part], [sized("a", 300)]))["a"]
    assert (found["scored_form"], found["status"]) == ("fake", "meets")
    assert "of the checkpoint itself: no average: t: not evaluated" in found["doubts"]


def test_a_recipe_that_collapsed_is_excluded_and_a_baseline_that_did_is_doubtful():
    note = "no average: t: 60 samples without a verdict: the model's logits are not finite"
    gone = {"collapsed": True, "note": note}
    found = by_recipe(rows([scored("a", 0.99), scored("a", form=FORM, **gone)], [sized("a", 300)]))["a"]
    assert (found["scored_form"], found["status"]) == (FORM, "excluded")  # an emulation that is well does not speak for it
    assert note in found["reasons"]
    base = answer.build(answer.Tables([scored("baseline", **gone)], [sized("baseline", 1000)]), Decide())
    assert note in first(base).doubts


@pytest.mark.parametrize("more", [{"task": "text", "metric": "perplexity"}, {"engine": "vllm", "task": "average"}])
def test_a_recipe_that_collapsed_anywhere_is_excluded_however_well_it_scored(more):
    note = "3 of 8 windows have a loss that is not finite"
    accuracy = [scored("a", 0.99), scored("a", collapsed=True, note=note, **more), scored("b", 0.99)]
    found = by_recipe(rows(accuracy, [sized("a", 300), sized("b", 400)]))
    assert (found["a"]["status"], found["b"]["status"]) == ("excluded", "meets")
    assert note in found["a"]["reasons"]
    chosen = by_recipe(rows(accuracy, [sized("a", 300)], Decide(engine="transformers")))["a"]["status"]
    assert chosen == ("meets" if "engine" in more else "excluded")
    alone = answer.build(answer.Tables(accuracy[1:2], [sized("a", 300)]), Decide())  # perplexity alone, or one engine
    assert alone[0]["status"] == "excluded"


def test_a_checkpoint_that_differs_from_its_emulation_is_excluded():
    checked = {**variant("a"), "logprob_difference": 0.4, "logprob_limit": 0.01}
    found = rows([scored("a", 0.99)], [sized("a", 300)], verification=[checked])
    assert by_recipe(found)["a"]["status"] == "excluded"


def test_two_platforms_are_two_answers():
    there = {"platform": "gpu"}
    found = answer.build(
        answer.Tables(
            [scored("baseline"), scored("a", 0.95), scored("baseline", **there), scored("a", 0.5, **there)],
            [sized("baseline", 9), sized("a", 3), sized("baseline", 9, **there), sized("a", 3, **there)],
        ),
        Decide(),
    )
    cpu, gpu = answer_text.said(found)
    assert (cpu.place, gpu.place) == ("demo on cpu", "demo on gpu")
    assert cpu.recommendation.startswith("Deploy a")
    assert gpu.recommendation.startswith("Keep")
    assert len(answer_text.printed(found)) == 2


def test_the_asked_engine_alone_counts():
    accuracy = [scored("baseline", engine="vllm"), scored("a", 0.99), scored("a", 0.01, drop=9, engine="vllm")]
    assert by_recipe(rows(accuracy, [sized("a", 3)], Decide(engine="vllm")))["a"]["status"] == "excluded"
    assert by_recipe(rows(accuracy, [sized("a", 3)], Decide(engine="transformers")))["a"]["status"] == "meets"


def test_an_empty_study_has_no_answer():
    assert answer.build(answer.Tables(), Decide()) == []
    (grid,) = answer_text.printed([])
    assert not grid.rows


@pytest.mark.parametrize("wrong", [{"probability": 0.5}, {"max_drop": -1}, {"max_bytes": 0}, {"min_speed": 3}])
def test_constraints_are_validated(wrong):
    with pytest.raises(ValidationError):
        Decide.model_validate(wrong)


PROBABILITY = st.one_of(st.none(), st.floats(0, 1))
RECIPE = st.tuples(
    PROBABILITY, st.floats(-5, 20), st.integers(1, 2000), st.sampled_from([FORM, "fake"]), st.booleans(), st.booleans()
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(RECIPE, max_size=5),
    st.builds(
        Decide,
        max_drop=st.floats(0, 5),
        probability=st.floats(0.55, 0.99),
        max_bytes=st.none() | st.integers(1, 2000),
        min_tokens_per_second=st.none() | st.just(100.0),
    ),
)
def test_nothing_is_claimed_that_was_not_shown(drawn, decide):
    accuracy, sizes, latency = [], [], []
    for i, (p, drop, size, form, thin, fast) in enumerate(drawn):
        accuracy.append(scored(f"r{i}", p, drop, doubt="4 items" if thin else None))
        sizes.append(sized(f"r{i}", size, form))
        latency += [timed(f"r{i}", 200.0 if fast else 50.0, form)]
    found = rows(accuracy, sizes, decide, latency=latency)
    assert len(found) == len(drawn) + 1
    ranks = [r["rank"] for r in found if r["rank"] is not None]
    assert ranks == list(range(1, len(ranks) + 1))
    for r in found:
        if r["status"] != "meets":
            assert r["reasons"]
            continue
        assert decide.max_bytes is None or r["bytes"] <= decide.max_bytes
        assert decide.min_tokens_per_second is None or r["tokens_per_second"] >= 100
        if r["recipe"] != "baseline":
            p, _, _, form, thin, _ = drawn[int(r["recipe"][1:])]
            assert p is not None
            assert p >= decide.probability
            assert not thin
            assert form != "fake"
    text = " ".join(sentence for said in answer_text.said(found) for sentence in said.sentences)
    if found[0]["status"] != "meets":
        assert "Deploy" not in text
    assert "100 %" not in text.replace("100 % of the unquantized", "")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.sampled_from([0.0, 1.0, 2.5]),
            st.none() | st.sampled_from([1.0, 2.0, 3.0]),
            st.none() | st.sampled_from([5.0, 9.0]),
        ),
        max_size=8,
    )
)
def test_a_frontier_dominates_all_else_and_nothing_on_it(points):
    on = frontier(points)
    known = [p for p in points if p[0] is not None and p[1] is not None]
    timed_all = all(p[2] is not None for p in known)

    def beats(a, b):
        speeds = (a[2] >= b[2], a[2] > b[2]) if timed_all else (True, False)
        return a[0] <= b[0] and a[1] <= b[1] and speeds[0] and (a[0] < b[0] or a[1] < b[1] or speeds[1])

    for point, kept in zip(points, on, strict=True):
        if point not in known:
            assert not kept
        else:
            assert kept == (not any(beats(other, point) for other in known))


def test_the_time_to_quantize_counts_a_linear_once_with_its_block():
    layer = {**variant("a"), "layer": 0, "peak_bytes": 1}
    layers = [
        layer | {"chunk": chunk, "module": module, "seconds": seconds}
        for chunk in (0, 1)
        for module, seconds in (("q_proj", 2.0), ("down_proj", 3.0), ("block", 6.0))
    ]
    found = by_recipe(rows([scored("a", 0.95)], [sized("a", 300)], layer_error=layers))["a"]
    assert (found["quantize_seconds"], found["quantize_jobs"]) == (12.0, 2)


def test_probabilities_in_words_never_reach_certainty_nor_their_bound():
    assert [answer.percent(p) for p in (0.0, 0.8999, 0.9, 1.0)] == ["below 1 %", "89 %", "90 %", "above 99 %"]
