"""Figures draw what the tables say, from the command line, say why something has no place, and refuse what was not measured."""

import json
import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptqflow.artifacts.schemas import SAMPLES
from ptqflow.artifacts.table_schemas import ACCURACY, ANSWER, LAYER_ERROR, LEARNING, RESCUE_SUMMARY
from ptqflow.artifacts.tables import to_table
from ptqflow.cli import main
from ptqflow.digest import closure
from ptqflow.evaluation.scoring.verdict import NOT_FINITE
from ptqflow.reporting import accuracy as accuracy_rows
from ptqflow.reporting import accuracy_table, runs, theme
from ptqflow.reporting.figures import accuracy, latency, layer_error, learning, learning_overview, linear_error, pareto
from ptqflow.reporting.variants import FEW
from synthetic_study import HARM, SyntheticStudy, diagnostics, identity, losses, sample, samples, served, whole_study

NO_RESCUE = to_table(RESCUE_SUMMARY, [])
FIGURES = {
    "accuracy": ["accuracy"],
    "layer_error": ["layer_error"],
    "learning": ["learning", "rescue"],
    "learning_overview": ["learning", "rescue"],
    "linear_error": ["layer_error"],
    "outliers": ["outliers"],
    "latency": ["latency"],
    "latency_parts": ["latency_parts"],
    "pareto": ["answer"],
    "collapse": ["collapse"],
}


def draw(figure, tables, output):
    options = [part for name in FIGURES[figure] for part in (f"--{name.replace('_', '-')}", str(tables / f"{name}.parquet"))]
    return main(["plot", "--settings", f'{{"figure": "{figure}"}}', *options, "--output", str(output)])


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    study = whole_study(root, platforms=("cpu", "gpu"))
    assert main(study.arguments(root / "tables")) == 0
    return root / "tables"


@pytest.mark.parametrize("figure", FIGURES)
def test_svg_names_every_recipe_and_platform(figure, tables, tmp_path):
    assert draw(figure, tables, tmp_path / "f.svg") == 0
    root = ElementTree.parse(tmp_path / "f.svg").getroot()
    text = " ".join("".join(e.itertext()) for e in root.iter() if e.tag.endswith("text"))
    assert root.tag.endswith("svg")
    drawn = [] if figure == "outliers" else HARM  # outliers are the unquantized model's
    assert all(name in text for name in [*drawn, "cpu", "gpu", "demo"])


def test_svg_says_which_tables_it_was_drawn_from(tables, tmp_path):
    assert draw("pareto", tables, tmp_path / "f.svg") == 0
    (found,) = [e.text for e in ElementTree.parse(tmp_path / "f.svg").getroot() if e.tag.endswith("metadata")]
    assert set(json.loads(found)["inputs"]) == {"answer"}


def test_learning_shows_recipes_beside_those_under_a_switch_and_leaves_out_what_is_alike():
    def rows(recipe, times):
        place = {"platform": "cpu", "model": "demo", "recipe": recipe, "chunk": 0}
        return [place | {"event": None} | row | {"value": times * row["value"]} for row in losses(1.0, range(8))]

    recipes = {"flat": 1.0, "flat-E0": 2.0, "flat-E7": 1.0, "flat-more": 1.0, "flat-E0-more": 1.5}
    found = [row for recipe, times in recipes.items() for row in rows(recipe, times)]
    found[0]["value"] = float("nan")
    chart = learning.chart({"learning": to_table(LEARNING, found), "rescue": NO_RESCUE}).to_dict()
    titles = [row["title"]["text"] for row in chart["vconcat"]]
    assert titles == [
        *("flat: demo on cpu", "flat: demo on cpu, row 2"),
        *("flat-more: demo on cpu", "flat-more: demo on cpu, row 2"),
    ]
    panels = [panel["title"]["text"] for row in chart["vconcat"][:2] for panel in row["hconcat"]]
    assert panels == [*(f"block {i}" for i in range(8)), "largest condition number"]
    subtitle = " ".join(chart["title"]["subtitle"])
    assert "Not drawn: 1 values" in subtitle
    assert "flat-E7 learned as" not in subtitle  # the one whose number is missing is not alike
    found[0]["value"] = 1.0
    found = [row for row in found if row["recipe"] != "flat"] + rows("flat", 1.0)
    subtitle = " ".join(
        learning.chart({"learning": to_table(LEARNING, found), "rescue": NO_RESCUE}).to_dict()["title"]["subtitle"]
    )
    assert "Not drawn: flat learned as flat-E7." in subtitle


@pytest.mark.parametrize("figure", [learning, learning_overview])
def test_curves_of_rescued_blocks_are_said_to_be_those_before_rescue(figure):
    place = {"platform": "cpu", "model": "demo", "recipe": "flat"}
    curves = [place | {"chunk": 0, "event": None} | row for row in losses(1.0, range(3))]
    attempt = dict.fromkeys(RESCUE_SUMMARY.names, 0) | place | {"rung": "longer", "at_8_bits": "", "fallback": None}
    attempts = [attempt | {"layer": layer, "kept": kept} for layer, kept in ((2, True), (0, True), (2, False), (1, False))]

    def subtitle(rows):
        given = {"learning": to_table(LEARNING, curves), "rescue": to_table(RESCUE_SUMMARY, rows)}
        return " ".join(figure.chart(given).to_dict()["title"]["subtitle"])

    assert "Before rescue, which calibrated again and replaced: flat (demo on cpu), blocks 0, 2 (table rescue)." in subtitle(
        attempts
    )
    assert "rescue" not in subtitle(attempts[2:])


def test_png_is_an_image(tables, tmp_path):
    assert draw("pareto", tables, tmp_path / "f.png") == 0
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_same_tables_give_the_same_picture(tables, tmp_path):
    for name in ("a.svg", "b.svg"):
        assert draw("layer_error", tables, tmp_path / name) == 0
    first, second = (re.sub(r"clip\d+", "clip", (tmp_path / name).read_text()) for name in ("a.svg", "b.svg"))
    assert first == second  # clip paths are numbered per process


@pytest.mark.parametrize("figure", FIGURES)
def test_one_item_one_block_one_batch_can_be_drawn(figure, tmp_path):
    """The smallest study: a single recipe with a single sample and single points."""
    study = SyntheticStudy(tmp_path)
    packed = {"qparams_bytes": 9, "packed_bytes": 8, "linear_weights": 16, "float_bytes": 32}
    for recipe, sizes in (("baseline", {}), ("rtn-w4a16", packed)):
        study.exported(identity(recipe), sizes)
        study.scored(identity(recipe), [sample("arithmetic", "a", True)])
        study.measured(identity(recipe), 0.0)
    study.quantized(identity("rtn-w4a16"), 0.1)
    study.collected("cpu", "demo", ["rtn-w4a16"])
    assert main(study.arguments(tmp_path / "tables")) == 0
    assert draw(figure, tmp_path / "tables", tmp_path / "f.svg") == 0
    assert "NaN" not in (tmp_path / "f.svg").read_text()


@pytest.mark.parametrize("figure", FIGURES)
def test_empty_tables_are_refused(figure, tmp_path, capsys):
    assert main(SyntheticStudy(tmp_path).arguments(tmp_path / "tables")) == 0
    assert draw(figure, tmp_path / "tables", tmp_path / "f.svg") == 2
    assert "nothing to draw" in capsys.readouterr().err
    assert not (tmp_path / "f.svg").exists()


@pytest.mark.parametrize("broken", [1, 60])
def test_a_study_whose_only_recipe_collapsed_has_its_figures_with_the_reason(broken, tmp_path):
    study = SyntheticStudy(tmp_path)
    packed = {"qparams_bytes": 9, "packed_bytes": 8, "linear_weights": 16, "float_bytes": 32}
    for recipe, sizes in (("baseline", {}), ("rtn-w4a16", packed)):
        rows = samples(0.0, 0, tasks=["arithmetic"])
        lost = {"correct": None, "unscored": NOT_FINITE.unscored}
        study.exported(identity(recipe), sizes)
        study.scored(identity(recipe), [r | lost if recipe != "baseline" and i < broken else r for i, r in enumerate(rows)])
    assert main(study.arguments(tmp_path / "tables")) == 0
    for figure in ("accuracy", "pareto"):
        assert draw(figure, tmp_path / "tables", tmp_path / "f.svg") == 0
        said = " ".join((tmp_path / "f.svg").read_text().replace("<", " <").split())
        assert "Nothing to show." in said
        assert "rtn-w4a16 (demo on cpu):" in said
        assert "logits are not" in said


def test_errors_and_losses_that_are_not_finite_leave_a_figure_that_says_so():
    place = {"platform": "cpu", "model": "demo", "recipe": "flat", "chunk": 0}
    errors = [dict.fromkeys(LAYER_ERROR.names) | place | row for row in diagnostics(float("nan"), range(2))]
    curves = [place | {"event": None} | row | {"value": float("nan")} for row in losses(1.0, range(2))]
    lost = {"learning": to_table(LEARNING, curves), "rescue": NO_RESCUE}
    for module, tables in ((layer_error, None), (linear_error, None), (learning, lost), (learning_overview, lost)):
        chart = module.chart(tables or {"layer_error": to_table(LAYER_ERROR, errors)}).to_dict()
        assert "not finite" in " ".join(chart["title"]["subtitle"])
    alive = [place | {"event": None, "recipe": "well"} | row for row in losses(1.0, range(2))]
    known = [row for row in curves if row["measure"] != "condition_number"]
    known += [row | {"recipe": "flat", "value": 2.0} for row in alive if row["measure"] == "condition_number"]
    chart = learning.chart({"learning": to_table(LEARNING, known + alive), "rescue": NO_RESCUE}).to_dict()
    assert [row["title"]["text"] for row in chart["vconcat"]] == ["well: demo on cpu"]


def test_a_study_that_quantizes_the_cache_alone_has_no_errors_of_linears_and_says_so():
    place = {"platform": "cpu", "model": "demo", "recipe": "kv8", "chunk": 0}
    blocks = [dict.fromkeys(LAYER_ERROR.names) | place | r for r in diagnostics(0.1, range(2)) if r["module"] == "block"]
    chart = linear_error.chart({"layer_error": to_table(LAYER_ERROR, blocks)}).to_dict()
    assert chart["title"]["subtitle"] == ["No recipe quantizes the weights of a linear."]


def test_a_point_is_filled_where_the_table_is_bold():
    """Seven items lost of one of six tasks: significant among the recipes, and not among the tasks."""
    lost = {"baseline": 0, "r": 7, "q": 60}
    answers = {
        who: [sample(f"t{k}", f"i{i:03d}", n * (k == 0) <= i < 300) for k in range(6) for i in range(400)]
        for who, n in lost.items()
    }
    tables = [(served(who), to_table(SAMPLES, rows).select(runs.READS)) for who, rows in answers.items()]
    rows = accuracy_rows.build(runs.gather(tables))
    bold = {(r["recipe"], r["task"]): accuracy_table.significant(r) for r in rows if r["drop"] is not None}
    assert (bold["r", "t0"], bold["q", "t0"]) == (False, True)
    drawn = json.dumps(accuracy.chart({"accuracy": to_table(ACCURACY, rows)}).to_dict())
    assert drawn.count('"clear": true') == 3 * sum(bold.values())  # a point, its bar and its number


def test_a_missing_table_or_unknown_form_is_refused(tables, tmp_path, capsys):
    pareto = ["plot", "--settings", '{"figure": "pareto"}', "--accuracy", str(tables / "accuracy.parquet"), "--output"]
    assert main([*pareto, str(tmp_path / "f.svg")]) == 2
    assert "figure pareto needs --answer" in capsys.readouterr().err
    assert main([*pareto, str(tmp_path / "f.jpg")]) == 2
    assert ".svg, .pdf or .png" in capsys.readouterr().err


def test_a_figure_is_not_part_of_the_code_of_another():
    """So that editing one reruns only it: the stage reaches none, each is named by its job."""
    assert not [name for name in closure("ptqflow.stages.plot") if re.search(r"figures\.", name)]
    for figure in FIGURES:
        others = [f"ptqflow.reporting.figures.{name}" for name in FIGURES if name != figure]
        assert not set(others) & set(closure(f"ptqflow.reporting.figures.{figure}"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=12), st.floats(0.1, 5))
def test_labels_keep_their_order_and_distance(positions, gap):
    moved = theme.spread(positions, gap)
    ranked = [moved[i] for i in sorted(range(len(positions)), key=lambda i: positions[i])]
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(ranked))
    assert sum(moved) == pytest.approx(sum(positions), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=10))
def test_labels_stay_on_the_axis_where_there_is_room(positions):
    assert all(-1e-9 <= p <= 10 + 1e-9 for p in theme.spread(positions, 1.0, 0.0, 10.0))


def test_labels_far_apart_do_not_move():
    assert theme.spread([5.0, 1.0, 9.0], 1.0) == [5.0, 1.0, 9.0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e-9, 1e6), min_size=1, max_size=8))
def test_logarithmic_axes_hold_their_values_and_some_ticks(values):
    low, high = theme.log_domain(values)
    assert low < min(values) <= max(values) < high
    assert theme.log_ticks((low, high))


@pytest.mark.parametrize("decades", [3, 8, 9, 29, 300])
def test_a_logarithmic_axis_names_eight_powers_of_ten_at_most_evenly(decades):
    ticks = theme.log_ticks((0.5, 0.5 * 10.0**decades))
    assert 3 <= len(ticks) <= 8
    assert len({round(math.log10(b / a)) for a, b in pairwise(ticks)}) == 1


def test_more_recipes_than_colours_differ_by_dash():
    names = [f"recipe-{i}" for i in range(20)]
    colours, dashes = theme.styles(["baseline", *names])
    assert len({(colours[name], tuple(dashes[name])) for name in names}) == 20


def test_baselines_band_holds_zero_and_mirrors_its_interval():
    group = [{"recipe": "baseline", "task": "t", "score": 90.0, "score_low": 80.0, "score_high": 94.0}]
    assert accuracy._band(group, "t") == {"low": -4.0, "high": 10.0}
    assert accuracy._band(group, "other") is None


def test_throughput_bars_span_the_slowest_and_fastest_repetition():
    row = {"tokens_per_second": 100.0, "seconds_median": 2.0, "seconds_min": 1.0, "seconds_max": 4.0}
    assert latency._row(row) | row == row | {"low": 50.0, "high": 200.0}


def variant(recipe, mebibytes, drop, form="compressed-tensors", rate=None, **more):
    row = {c.name: None for c in ANSWER} | {"platform": "cpu", "model": "demo", "recipe": recipe, "status": "meets"}
    row |= {"form": form, "packed_bytes": int(mebibytes * 2**20), "score": 80.0, "max_drop": 1.0, "probability": 0.9}
    ends = {"drop": drop, "drop_low": None if drop is None else drop - 1, "drop_high": None if drop is None else drop + 1}
    return row | ends | {"tokens_per_second": rate, "frontier": False} | more


def drawn_of(*rows):
    return json.dumps(pareto.chart({"answer": to_table(ANSWER, rows)}).to_dict(), ensure_ascii=False)


def test_equal_sizes_stand_at_equal_places_and_their_labels_apart():
    rows = [pareto._drawn(r, [r]) for r in (variant("a", 2, 0.5), variant("b", 2, 0.6), variant("c", 2, 0.5))]
    domain = theme.drop_domain(rows)
    _, labels = pareto._labels(rows, domain, 300)
    assert {r["size"] for r in labels} == {2.0}
    heights = sorted(300 * theme.drop_at(r["label_y"], domain) for r in labels)
    assert all(b - a >= theme.LABEL_SIZE for a, b in pairwise(heights))


def test_the_frontier_is_a_step_line_of_true_points_with_the_unquantized_model():
    rows = [variant("baseline", 8, None, form=None), variant("w4", 2, 0.5), variant("w3", 1, 4.0), variant("worse", 2, 0.6)]
    drawn = [pareto._drawn(r, rows) for r in rows]
    corners = [(r["size"], r["drop"]) for r in pareto.steps(drawn, 9.0)]
    assert corners == [(1.0, 4.0), (2.0, 0.5), (8.0, 0.0), (9.0, 0.0)]


def test_speed_is_said_of_real_forms_and_an_emulation_is_called_one():
    picture = drawn_of(variant("baseline", 8, None, form=None), variant("w4", 2, 0.5, rate=1200.0), variant("w3", 1, 4.0, "fake"))
    assert "w4, 1200 tokens/s" in picture
    assert "w3, emulation" in picture


def test_of_many_recipes_the_best_of_each_format_is_named_and_the_others_are_points():
    def named(count):
        drops = [2.0, 3.0, 2.0, *range(5, 2 + count)]  # that of r2 is r0's
        recipes = [variant(f"r{i}", 1 + i % 2, drop, format=f"W{3 + i % 2}A16", frontier=i == 4) for i, drop in enumerate(drops)]
        picture = drawn_of(variant("baseline", 8, None, form=None), *recipes, variant("cache", 8, 30.0, format="KV4"))
        return set(re.findall(r'"text": "(\w+)"[^}]*"label_x"', picture)), "Grey: recipes that lose no less than" in picture

    everything = {"baseline", "cache", *(f"r{i}" for i in range(FEW - 1))}
    assert named(FEW - 1) == (everything, False)
    assert named(FEW) == ({"baseline", "cache", "r0", "r1", "r4"}, True)


def test_what_has_no_place_is_named():
    assert "Not shown, without a drop or a size: lost" in drawn_of(variant("w4", 2, 0.5), variant("lost", 2, None))


@settings(max_examples=100, deadline=None)
@given(st.floats(-20, 100), st.sampled_from([(-3.0, 4.0), (-20.0, 100.0)]))
def test_a_place_on_the_axis_of_drops_is_its_drop(drop, domain):
    assert theme.drop_of(theme.drop_at(drop, domain), domain) == pytest.approx(drop, abs=1e-9)
