"""What the tables say of a study whose truth is known, through the command line and from the builders."""

import csv
import json
import math
import re

import pyarrow as pa
import pytest
from ptqflow.artifacts.manifests import FileEntry, Manifest
from ptqflow.artifacts.schemas import SAMPLES, VERIFICATION
from ptqflow.artifacts.table_schemas import ACCURACY, COST, LATENCY_PARTS, LATENCY_SUMMARY, LAYER_ERROR, LEARNING, SIZES
from ptqflow.artifacts.tables import METADATA_KEY, read_metadata, read_table, to_table
from ptqflow.cli import main
from ptqflow.errors import ArtifactError
from ptqflow.evaluation.scoring.verdict import NOT_FINITE
from ptqflow.reporting import accuracy, accuracy_table, latency, layer_error, render, runs, sizes, verification
from ptqflow.reporting.variants import Timing, Variant
from synthetic_study import HARM, LATENCY_FACTS, LAYERS, LINEARS, SyntheticStudy, identity, sample, samples, served, whole_study

FILES = {
    "answer": ("parquet", "csv", "md", "html"),
    "accuracy": ("parquet", "csv", "md", "tex", "html"),
    "cost": ("parquet", "csv", "md", "tex", "html"),
    "collapse": ("parquet", "csv", "md", "html"),
    "comparison": ("parquet", "csv", "md", "html"),
    "flips": ("parquet", "csv", "md", "html"),
    "layer_error": ("parquet", "csv", "md", "html"),
    "learning": ("parquet", "csv", "md", "html"),
    "outliers": ("parquet", "csv", "md", "html"),
    "provenance": ("parquet", "csv", "md", "html"),
    "latency": ("parquet", "csv", "md", "html"),
    "latency_parts": ("parquet", "csv", "md", "html"),
    "noise": ("parquet", "csv", "md", "html"),
    "sizes": ("parquet", "csv", "md", "html"),
    "verification": ("parquet", "csv", "md", "html"),
    "overlap": ("parquet", "csv", "md", "html"),
    "published": ("parquet", "csv", "md", "html"),
    "selftest": ("parquet", "csv", "md", "html"),
    "rescue": ("parquet", "csv", "md", "html"),
}


SCHEMAS = {"accuracy": ACCURACY, "cost": COST, "layer_error": LAYER_ERROR, "latency": LATENCY_SUMMARY, "sizes": SIZES}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    study = whole_study(root)
    assert main(study.arguments(root / "tables")) == 0
    return root / "tables"


def table(*parts: tuple[str, list[dict]]) -> list[accuracy.Row]:
    """Accuracy rows of (recipe, samples) files."""
    files = [(served(recipe), to_table(SAMPLES, rows).select(runs.READS)) for recipe, rows in parts]
    return accuracy.build(runs.gather(files))


def of(rows, recipe, task):
    (row,) = [r for r in rows if (r["recipe"], r["task"]) == (recipe, task)]
    return row


def scored(right: int, wrong: int, **more) -> list[dict]:
    return [sample("arithmetic", f"i{i:03d}", i < right, **more) for i in range(right + wrong)]


def test_every_listed_file_is_written(tables):
    assert {p.name for p in tables.iterdir()} == {f"{name}.{suffix}" for name, suffixes in FILES.items() for suffix in suffixes}


def test_accuracy_has_each_variant_on_each_task_and_their_average(tables):
    rows = read_table(tables / "accuracy.parquet", ACCURACY).to_pylist()
    assert [(r["recipe"], r["task"]) for r in rows] == [
        (recipe, task) for recipe in ["baseline", *HARM] for task in ("arithmetic", "facts", "average", "text")
    ]
    for row in rows:
        assert row["score_low"] <= row["score"] <= row["score_high"]
        assert (row["drop"] is None) == (row["recipe"] == "baseline")
        if row["drop"] is not None:
            assert row["drop_low"] <= row["drop"] <= row["drop_high"]
            assert row["paired_runs"] in (120, 240, 40)
    harmed, average = of(rows, "rtn-w4a4kv4", "arithmetic"), of(rows, "rtn-w4a4kv4", "average")
    assert harmed["p_risky"] > 0.99
    assert harmed["drop"] == pytest.approx(of(rows, "baseline", "arithmetic")["score"] - harmed["score"])
    assert average["score"] == pytest.approx((harmed["score"] + of(rows, "rtn-w4a4kv4", "facts")["score"]) / 2)
    assert of(rows, "rtn-w3a16", "text")["drop"] == pytest.approx(35, abs=5)  # exp(0.3) - 1


def test_learning_has_every_step_and_check_of_each_block_once(tables):
    rows = read_table(tables / "learning.parquet", LEARNING).to_pylist()
    keys = [(r["recipe"], r["layer"], r["step"], r["measure"], r["event"]) for r in rows]
    assert len(set(keys)) == len(keys) == len(HARM) * LAYERS * (5 + 3 + 2)


def test_layer_error_has_each_module_of_each_block_once(tables):
    rows = read_table(tables / "layer_error.parquet", LAYER_ERROR).to_pylist()
    assert len(rows) == len({(r["recipe"], r["layer"], r["module"]) for r in rows}) == len(HARM) * LAYERS * len(LINEARS)


def test_latency_is_the_median_and_relates_to_the_baseline(tables):
    rows = read_table(tables / "latency.parquet", LATENCY_SUMMARY).to_pylist()
    row = next(r for r in rows if (r["recipe"], r["phase"], r["batch_size"]) == ("rtn-w3a16", "prefill", 8))
    assert row["seconds_median"] == pytest.approx(0.08 * 1.3)
    assert row["tokens_per_second"] == pytest.approx(8 * 64 / (0.08 * 1.3))
    assert row["speedup"] is None  # of an emulation
    assert {r["speedup"] for r in rows if r["recipe"] == "baseline"} == {1.0}
    assert row["roofline_share"] == pytest.approx(1e-3 / (0.08 * 1.3))  # 1e9 operations at 1e12/s, 1e7 bytes at 1e10/s
    decode = next(r for r in rows if (r["recipe"], r["phase"], r["batch_size"]) == ("rtn-w3a16", "decode", 8))
    step = 0.1 * math.sqrt(8) * 1.3 / 16
    assert decode["time_to_first_token"] == pytest.approx(0.08 * 1.3)
    assert decode["time_per_output_token"] == pytest.approx(step)
    assert decode["user_tokens_per_second"] == pytest.approx(1 / step)
    assert decode["request_tokens_per_second"] == pytest.approx(8 * 16 / (0.08 * 1.3 + 16 * step))
    assert decode["cache_sequences"] == 1000 // (64 + 16)


def test_parts_are_shares_of_the_median(tables):
    rows = read_table(tables / "latency_parts.parquet", LATENCY_PARTS).to_pylist()
    found = {r["part"]: r for r in rows if (r["recipe"], r["phase"], r["batch_size"]) == ("rtn-w3a16", "prefill", 8)}
    assert {part: row["share"] for part, row in found.items()} == pytest.approx({"quantize": 0.1, "product": 0.6, "other": 0.3})
    assert found["product"]["seconds"] == pytest.approx(0.6 * 0.08 * 1.3)
    assert found["product"]["kernels"] == "aten::mm"


def test_a_served_form_has_a_speed_up_and_its_emulation_has_none():
    point = {"phase": "decode", "batch_size": 1, "prompt_tokens": 8, "new_tokens": 4, "repetition": 0, "peak_bytes": 1}

    def timings(recipe, form, seconds, dtype="float32"):
        who = Timing(platform="cpu", model="demo", recipe=recipe, form=form, engine="vllm", timing="short")
        table = pa.Table.from_pylist([LATENCY_FACTS | point | {"seconds": seconds}])
        return who, table.replace_schema_metadata({METADATA_KEY: json.dumps({"engine": {"dtype": dtype}})})

    of_others = timings("rtn", "autoawq", 0.5, "bfloat16")  # which is faster by its number type, too
    rows = latency.build([timings("baseline", None, 2.0), timings("rtn", "fake", 4.0), timings("rtn", "gptq", 1.0), of_others])
    assert [r["speedup"] for r in rows] == [1.0, None, 2.0, None]


def test_sizes_state_bits_per_weight(tables):
    rows = {r["recipe"]: r for r in read_table(tables / "sizes.parquet", SIZES).to_pylist()}
    assert rows["rtn-w4a16"]["bits_per_weight"] == pytest.approx(4.25)
    assert rows["baseline"]["bits_per_weight"] == 16


def test_csv_holds_every_row_and_column(tables):
    for name, schema in SCHEMAS.items():
        lines = list(csv.DictReader((tables / f"{name}.csv").read_text().splitlines()))
        assert len(lines) == read_table(tables / f"{name}.parquet", schema).num_rows
        assert list(lines[0]) == schema.names


def test_metadata_names_the_inputs_by_hash(tables):
    metadata = read_metadata(tables / "accuracy.parquet")
    assert metadata["stage"] == "aggregate"
    assert all(len(digest) == 64 for digest in metadata["inputs"].values())


def test_same_files_give_the_same_bytes(tables, tmp_path):
    study = whole_study(tmp_path)
    assert main(study.arguments(tmp_path / "tables")) == 0
    for name in ("accuracy.md", "accuracy.csv", "latency.md", "layer_error.csv"):
        assert (tmp_path / "tables" / name).read_bytes() == (tables / name).read_bytes()


def test_a_study_without_tasks_says_that_nothing_was_scored():
    (grid,) = accuracy_table.printed([])
    assert grid.notes == ["Nothing was scored: no suite of the study asks a task."]


def test_missing_cells_are_explicit_and_never_zero():
    rows = table(("baseline", samples(0.0, 0)), ("rtn", samples(0.1, 0, tasks=["facts"])))
    for task in ("arithmetic", "text"):
        assert of(rows, "rtn", task)["score"] is None
        assert of(rows, "rtn", task)["note"] == "not evaluated"
    assert of(rows, "rtn", "average")["score"] is None
    assert of(rows, "rtn", "average")["note"] == "no average: arithmetic: not evaluated"
    printed = render.markdown(accuracy_table.printed(rows))
    line = next(line for line in printed.splitlines() if re.search(r"\| rtn ", line))
    assert re.fullmatch(
        r"\| cpu +\| demo +\| rtn +\| fake +\| +n/a \| +\S*\d\S* \| +n/a \| +n/a \| +– \| +– \| +– \| +– \| +n/a \|", line
    )


def replicated(*right: int) -> list:
    """A baseline with 40 of 50, and replicates of a recipe with so many."""
    replicates = [served("rtn").model_copy(update={"replicate": k}) for k in range(len(right))]
    parts = [(served("baseline"), scored(40, 10)), *zip(replicates, (scored(r, 50 - r) for r in right), strict=True)]
    return [(variant, to_table(SAMPLES, rows).select(runs.READS)) for variant, rows in parts]


def test_replicates_are_one_row_with_their_mean_and_an_interval_that_knows_their_spread():
    alike, apart = (
        of(accuracy.build(runs.gather(replicated(*right))), "rtn", "arithmetic") for right in ((36, 36, 36), (28, 36, 44))
    )
    for row in (alike, apart):
        assert (row["replicates"], row["score"], row["drop"], row["items"], row["paired_runs"]) == (3, 72, 8, 50, 50)
    assert apart["replicate_sd"] > 3 * alike["replicate_sd"]
    assert apart["drop_high"] - apart["drop_low"] > alike["drop_high"] - alike["drop_low"]
    printed = render.markdown(accuracy_table.printed(accuracy.build(runs.gather(replicated(28, 36, 44)))))
    assert "rtn fake: 3 calibration draws" in printed


def test_a_recipe_that_draws_nothing_has_the_noise_of_items_alone():
    lost = {"baseline": 400, "rtn": 1200}
    files = [(served(who), to_table(SAMPLES, scored(4000 - n, n)).select(runs.READS)) for who, n in lost.items()]
    drawn, exact = (
        of(accuracy.build(runs.gather(files), exact=which), "rtn", "arithmetic") for which in (set(), {served("rtn")})
    )
    assert drawn["drop_high"] - drawn["drop_low"] > 1.2 * (exact["drop_high"] - exact["drop_low"])


def test_a_replicate_that_was_asked_something_else_is_refused():
    files = replicated(36, 36)
    other = scored(36, 14)
    other[3]["prompt_sha256"] = "another"
    files[2] = (files[2][0], to_table(SAMPLES, other).select(runs.READS))
    with pytest.raises(ArtifactError, match="prompts differ"):
        accuracy.build(runs.gather(files))


def test_an_undecided_row_says_what_would_decide_it():
    rows = table(("baseline", scored(150, 50)), ("near", scored(146, 54)), ("far", scored(100, 100)))
    cells = {line[2]: line for line in accuracy_table.printed(rows)[0].rows}
    at = accuracy_table.printed(rows)[0].header.index("Class")
    assert cells["far"][at : at + 2] == ["risky (> 99 %)", "–"]
    assert re.fullmatch(r"undecided \(fair \d+ %\)", cells["near"][at])
    assert re.search(r"\d items", cells["near"][at + 1])
    few = accuracy_table.printed(table(("baseline", scored(3, 2)), ("r", scored(3, 2))))[0].rows[1]
    assert few[at].startswith("undecided")
    assert few[at + 1] == "5 items, fewer than 30"


def test_a_probability_short_of_a_verdict_is_not_rounded_to_it():
    rows = table(("baseline", scored(150, 50)), ("r", scored(146, 54)))
    at = accuracy_table.printed(rows)[0].header.index("Class")
    short, enough = (
        [row | {"p_lossless": p, "p_fair": 1 - p, "p_risky": 0.0, "verdict": verdict} for row in rows if row["recipe"] == "r"]
        for p, verdict in ((0.897, "undecided"), (0.901, "lossless"))
    )
    assert [accuracy_table.printed(found)[0].rows[0][at] for found in (short, enough)] == [
        "undecided (lossless 89 %)", "lossless (90 %)",
    ]  # fmt: skip


def test_unequal_runs_are_paired_on_what_both_have_and_counted():
    """The variant has fewer items and one seed more; only its shared runs enter the drop."""
    base = scored(40, 10, seed=0) + scored(40, 10, seed=1)
    short = [row for seed in (0, 1, 2) for row in scored(30, 0, seed=seed)]
    row = of(table(("baseline", base), ("rtn", short)), "rtn", "arithmetic")
    assert (row["items"], row["seeds"], row["paired_items"], row["paired_runs"]) == (30, 3, 30, 60)
    assert (row["score"], row["drop"], row["recovery"]) == (100, 0, 100)
    assert "paired on 60 runs of 30 items (scored 90, baseline 100)" in row["note"]


def test_files_of_several_suites_and_seeds_are_one_sample():
    whole = table(("baseline", scored(40, 10, seed=0) + scored(30, 20, seed=1)))
    parts = table(("baseline", scored(40, 10, seed=0)), ("baseline", scored(30, 20, seed=1)))
    assert whole == parts
    assert whole[0]["score"] == pytest.approx(70)


def test_without_a_baseline_there_is_a_score_and_no_drop():
    row = of(table(("rtn", scored(40, 10))), "rtn", "arithmetic")
    assert row["score"] == pytest.approx(80)
    assert row["drop"] is None
    assert "no baseline" in row["note"]


def test_each_platform_has_its_own_baseline():
    files = [
        (served(recipe, platform), to_table(SAMPLES, scored(right, 50 - right)).select(runs.READS))
        for platform, recipe, right in (("cpu", "baseline", 50), ("gpu", "baseline", 40), ("gpu", "rtn", 40))
    ]
    assert of(accuracy.build(runs.gather(files)), "rtn", "arithmetic")["drop"] == 0


def test_each_engine_has_its_own_baseline():
    """A drop is never between engines: what another engine rounds otherwise is no loss of the recipe."""
    files = [
        (served(recipe, engine=engine), to_table(SAMPLES, scored(right, 50 - right)).select(runs.READS))
        for engine, recipe, right in (("transformers", "baseline", 50), ("vllm", "baseline", 40), ("vllm", "rtn", 40))
    ]
    rows = accuracy.build(runs.gather(files))
    assert of(rows, "rtn", "arithmetic")["drop"] == 0
    assert {(r["engine"], r["recipe"]) for r in rows} == {("transformers", "baseline"), ("vllm", "baseline"), ("vllm", "rtn")}
    grid = accuracy_table.printed(rows)[0]
    assert grid.header[:5] == ["Platform", "Model", "Recipe", "Form", "Engine"]
    assert [row[4] for row in grid.rows] == ["transformers", "vllm", "vllm"]
    alone = accuracy.build(runs.gather([file for file in files if file[0].engine == "transformers"]))
    assert "Engine" not in accuracy_table.printed(alone)[0].header
    without = accuracy.build(runs.gather([files[0], files[2]]))
    assert of(without, "rtn", "arithmetic")["drop"] is None
    assert "no baseline of this platform, model, engine" in of(without, "rtn", "arithmetic")["note"]


def test_a_baseline_of_other_seeds_is_told_from_none():
    rows = table(("baseline", scored(8, 2, seed=1)), ("rtn", scored(8, 2)))
    assert of(rows, "rtn", "arithmetic")["note"] == "no item and seed in common with the baseline"


def without_verdict(rows: list[dict], count: int, reason: str) -> list[dict]:
    return [row | {"correct": None, "unscored": reason} if i < count else row for i, row in enumerate(rows)]


def test_a_collapsed_model_has_no_score_and_says_so():
    rows = table(("baseline", scored(8, 2)), ("rtn", without_verdict(scored(8, 2), 3, NOT_FINITE.unscored)))
    row = of(rows, "rtn", "arithmetic")
    assert (row["score"], row["drop"]) == (None, None)
    assert row["note"] == "3 samples without a verdict: the model's logits are not finite"
    average = of(rows, "rtn", "average")
    assert (average["score"], average["collapsed"]) == (None, True)
    assert average["note"] == f"no average: arithmetic: {row['note']}"
    printed = accuracy_table.printed(rows)[0]
    assert any("3 samples without a verdict" in note for note in printed.notes)
    rows = table(("baseline", without_verdict(scored(8, 2), 1, NOT_FINITE.unscored)), ("rtn", scored(8, 2)))
    row = of(rows, "rtn", "arithmetic")
    assert (row["score"], row["drop"]) == (80, None)
    assert row["note"] == "baseline: 1 sample without a verdict: the model's logits are not finite"
    assert of(rows, "rtn", "average")["note"] == f"no drop: arithmetic: {row['note']}"


def test_samples_without_a_verdict_are_left_out_and_counted():
    rows = table(("baseline", scored(8, 2)), ("rtn", without_verdict(scored(8, 2), 2, "no time")))
    row = of(rows, "rtn", "arithmetic")
    assert (row["score"], row["items"], row["paired_runs"]) == (75, 8, 8)
    assert row["note"] == "2 samples without a verdict: no time; paired on 8 runs of 8 items (scored 8, baseline 10)"


@pytest.mark.parametrize(("loss", "windows"), [(math.inf, 1), (math.nan, 1), (math.nan, 20)])
def test_loss_that_is_not_finite_is_said_and_not_scored(loss, windows):
    """A model that collapsed altogether does not keep the others from their table."""
    broken = samples(0.0, 0, tasks=["text"])
    for row in broken[:windows]:
        row["nll"] = loss
    rows = table(("baseline", samples(0.0, 0, tasks=["text"])), ("rtn", broken))
    assert of(rows, "rtn", "text")["score"] is None
    assert f"{windows} of 20 windows" in of(rows, "rtn", "text")["note"]
    assert of(rows, "baseline", "text")["score"] > 1


def test_a_loss_whose_perplexity_no_number_holds_is_said_and_not_scored():
    broken = [row | {"nll": 800.0 * row["completion_tokens"]} for row in samples(0.0, 0, tasks=["text"])]
    rows = table(("baseline", samples(0.0, 0, tasks=["text"])), ("rtn", broken))
    row = of(rows, "rtn", "text")
    assert (row["score"], row["collapsed"], row["note"][:29]) == (None, True, "a loss of 800 nats per token,")


@pytest.mark.parametrize(("task", "column"), [("text", "nll"), ("facts", "correct")])
def test_a_sample_without_its_score_is_refused(task, column):
    rows = samples(0.0, 0, tasks=[task])
    rows[2][column] = None
    with pytest.raises(ArtifactError, match=f"task {task}: a sample without a score"):
        table(("baseline", rows))


def test_truncated_completions_are_counted():
    rows = scored(8, 2)
    rows[0]["finish_reason"] = "length"
    found = table(("baseline", rows))
    assert of(found, "baseline", "arithmetic")["truncated"] == pytest.approx(0.1)
    assert "cut at the token limit" in render.markdown(accuracy_table.printed(found))


def test_nothing_within_noise_is_bold():
    rows = table(("baseline", samples(0.0, 0)), *((recipe, samples(harm, 0)) for recipe, harm in HARM.items()))
    drops, cells = accuracy_table.printed(rows)[1], 0
    for line in drops.rows:
        for task, cell in zip(drops.header[4:], line[4:], strict=True):
            row = of(rows, line[2], task)
            assert isinstance(cell, render.Bold) == (row["p_holm"] <= 0.05)
            cells += isinstance(cell, render.Bold)
    assert 0 < cells < 2 * len(HARM)


def test_what_is_clearly_better_is_bold_as_what_is_clearly_worse():
    rows = table(("baseline", scored(30, 30)), ("better", scored(60, 0)), ("worse", scored(0, 60)), ("same", scored(30, 30)))
    drops = {line[2]: line[4] for line in accuracy_table.printed(rows)[1].rows}
    assert {recipe: isinstance(cell, render.Bold) for recipe, cell in drops.items()} == {
        "better": True, "worse": True, "same": False,
    }  # fmt: skip


def test_truncation_is_printed_in_percent():
    rows = scored(8, 2)
    rows[0]["finish_reason"] = "length"
    assert [line[4] for line in accuracy_table.printed(table(("baseline", rows)))[2].rows] == ["10.0"]


def test_different_prompts_cannot_be_paired():
    other = scored(10, 0)
    other[4]["prompt_sha256"] = "another"
    with pytest.raises(ArtifactError, match=r"1 prompts differ from the baseline's .first: item i004"):
        table(("baseline", scored(10, 0)), ("rtn", other))


def test_a_sample_given_twice_is_refused():
    with pytest.raises(ArtifactError, match="arithmetic item i000 seed 0 occurs twice"):
        table(("baseline", scored(10, 0)), ("baseline", scored(10, 0)))


def test_overlapping_chunks_are_refused(tmp_path):
    study = SyntheticStudy(tmp_path)
    study.quantized(identity("rtn-w4a16"), 0.1)
    chunk = layer_error.Chunk(platform="cpu", model="demo", recipe="rtn-w4a16", chunk=0)
    table = read_table(study.paths["diagnostics"][0], pa.schema([LAYER_ERROR.field(i) for i in range(4, len(LAYER_ERROR))]))
    with pytest.raises(ArtifactError, match="is also in cpu/demo/rtn-w4a16/chunk=0"):
        layer_error.build([(chunk, table), (chunk.model_copy(update={"chunk": 1}), table)])


def test_a_verified_checkpoint_is_summed_up_by_its_worst_finding():
    checks = [("tensors", "a", None), ("tensors", "b", None), ("integers", "a", None), ("weight", "a", 0.5), ("weight", "b", 0.1)]
    checks += [("bytes", "weights", 30.0), ("baseline_bytes", "weights of the float model", 120.0)]
    checks += [("mean_logprob_difference", "x", 0.2), ("largest_logprob_difference", "x", 0.9)]
    rows = [{"check": c, "subject": s, "status": "passed", "value": v, "limit": None, "note": None} for c, s, v in checks]
    (row,) = verification.build([(Variant.model_validate(identity("r")), to_table(VERIFICATION, rows))])
    assert (row["tensors"], row["linears"], row["bytes"], row["baseline_share"]) == (2, 1, 30, 0.25)
    assert (row["weight_difference"], row["logprob_difference"]) == (0.5, 0.2)


def test_export_without_sizes_is_refused():
    manifest = Manifest(files={"a": FileEntry(bytes=1, sha256="0")}, origin={"packed_bytes": 1})
    with pytest.raises(ArtifactError, match="no qparams_bytes, linear_weights, float_bytes; export it again"):
        sizes.build([(Variant.model_validate(identity("rtn")), manifest)])


def test_a_study_of_samples_only_has_empty_other_tables(tmp_path):
    study = SyntheticStudy(tmp_path)
    study.scored(identity("baseline"), scored(8, 2))
    assert main(study.arguments(tmp_path / "tables")) == 0
    assert read_table(tmp_path / "tables/latency.parquet", LATENCY_SUMMARY).num_rows == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["scores"].pop(), "settings.scores names 1 files, --scores gives 2"),
        (lambda s: s["scores"].__setitem__(1, s["scores"][0]), "settings.scores: .* is listed twice"),
        (lambda s: s["scores"][1].update(form=None), "the baseline has no form"),
        (lambda s: s["scores"][1].update(colour="red"), "colour"),
    ],
)
def test_settings_that_do_not_fit_the_files_are_refused(tmp_path, capsys, change, message):
    study = SyntheticStudy(tmp_path)
    study.scored(identity("baseline"), scored(8, 2))
    study.scored(identity("rtn"), scored(8, 2))
    change(study.settings)
    assert main(study.arguments(tmp_path / "tables")) == 2
    assert re.search(message, capsys.readouterr().err)


def test_renderings_escape_what_would_break_them():
    grid = render.TextTable("T", ["a|b", "50 %_x"], [[render.Bold("<m&m>"), "−1 ≤ 2"]], notes=["x_y"])
    assert "a\\|b" in render.markdown([grid])
    assert "**<m&m>**" in render.markdown([grid])
    latex = render.latex([grid])
    assert r"50 \%\_x" in latex
    assert r"\textbf{$<$m\&m$>$} & $-$1 $\le$ 2 \\" in latex
    assert "<b>&lt;m&amp;m&gt;</b>" in render.html([grid])


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(None, 1, "–"), (-1.25, 1, "−1.2"), (-0.01, 1, "0.0"), (0.0, 1, "0.0"), (123456.0, 1, "1.23e+05"), (99.95, 1, "100.0")],
)
def test_numbers_print_as_read(value, digits, text):
    assert render.number(value, digits) == text
