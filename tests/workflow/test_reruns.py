"""After an edit, exactly the jobs that it reaches run again: each sentence of the design's section 4, on the real Snakemake."""

import os
import re
import shutil
import subprocess
from collections import Counter

import pyarrow.parquet as pq
import pytest
from checkout import REPOSITORY, SMALL_STUDY, Checkout

CHUNKS = ("0", "1")
FIGURES = ("latency", "latency_parts", "layer_error", "linear_error", "outliers")  # the small study measures no accuracy
END = {"aggregate", "report", *(f"plot figure={name}" for name in FIGURES)}


def asked(variant: str, task: str, seed: int = 0, stages: tuple[str, ...] = ("generate", "score")) -> set[str]:
    """The jobs that ask a variant one task, and score what it says."""
    return {f"{stage} variant={variant} engine=transformers task={task} seed={seed}" for stage in stages}


def overlap(task: str) -> set[str]:
    """The job that compares a task's items with the calibration set."""
    return {f"overlap calibration=traces task={task}"}


def quantized(*recipes: str) -> set[str]:
    """The jobs of recipes from quantize down to the report."""
    return below(*recipes) | {f"quantize recipe={r} chunk={k}" for r in recipes for k in CHUNKS}


def below(*recipes: str) -> set[str]:
    """The jobs of recipes that follow their quantize jobs."""
    return END | {
        job
        for r in recipes
        for job in (
            f"export recipe={r} form=fake",
            f"verify recipe={r} form=fake",
            *asked(f"{r}.fake", "text"),
            f"measure variant={r}.fake engine=transformers timing=transformers",
        )
    }


BASELINE = {*asked("baseline", "text"), "measure variant=baseline engine=transformers timing=transformers"}
BOTH = ("rounded", "second-order")
VARIANTS = ("baseline", *(f"{r}.fake" for r in BOTH))
LAYER_ERROR = "results/tables/layer_error.parquet"  # with it all tables are made: figures and report need not run, too


@pytest.fixture
def study(finished: Checkout, tmp_path) -> Checkout:
    return finished.clone(tmp_path / "clone")


def test_nothing_runs_when_nothing_changed(study):
    assert study.planned() == set()


def test_comments_docstrings_and_formatting_run_nothing(study):
    study.edit("workflow/ptqflow/methods/roundings/gptq.py", '"""', '"""Another first line.\n\n')
    with open(study.root / "workflow/ptqflow/methods/roundings/rtn.py", "a") as file:
        file.write("\n# a comment\n")
    assert study.planned() == set()


def test_code_of_a_method_runs_its_recipes(study):
    with open(study.root / "workflow/ptqflow/methods/roundings/gptq.py", "a") as file:
        file.write("\nNEW_CONSTANT = 1\n")
    assert study.planned() == quantized("second-order")


def test_code_of_a_shared_numeric_helper_runs_every_recipe(study):
    study.edit("workflow/ptqflow/numerics/grid.py", "return (-(2 **", "return (0 - (2 **")
    everything_with_a_grid = quantized(*BOTH) | BASELINE | {"collect calibration=traces"}  # engines hold the fake quantizer
    assert study.planned() == everything_with_a_grid | {"selftest"}


def test_code_of_one_methods_helper_runs_its_recipes(study):
    study.edit("workflow/ptqflow/numerics/linalg.py", "        return None\n", "        return (None)[0]\n")
    assert study.planned() == quantized("second-order") | {"selftest"}


def test_a_new_self_test_of_the_device_quantizes_nothing_again(study):
    with open(study.root / "workflow/ptqflow/selftest/arithmetic.py", "a") as file:
        file.write("\nPROBES += PROBES[:0]\n")
    assert study.planned() == {"selftest"} | END


def test_first_chunks_that_read_no_statistics_do_not_wait_for_collect(study):
    with open(study.root / "workflow/ptqflow/stages/collect.py", "a") as file:
        file.write("\nNEW_CONSTANT = 1\n")
    later = {f"quantize recipe={recipe} chunk=1" for recipe in BOTH}
    assert study.planned() == below(*BOTH) | later | {"collect calibration=traces"}


def test_one_layers_override_runs_its_chunk(study):
    override = {"layers": [0], "linears": ["down_proj"], "weights": {"num_bits": 8, "strategy": "channel"}}
    study.configure(lambda c: c["recipes"]["second-order"].update(overrides=[override]))
    assert study.planned() == below("second-order") | {"quantize recipe=second-order chunk=0"}


def test_readme_lists_the_jobs_that_its_edit_reaches(tmp_path):
    """Of all jobs of the default study: those of the edited recipe, and those that gather the results of all."""
    readme = (REPOSITORY / "README.md").read_text()
    edit, listed = re.search(r"^\$ (sed -i .*) && snakemake .*\n((?:.+\n)+)", readme, re.M).groups()
    study = Checkout.create(tmp_path / "default")
    before = study.config["recipes"]
    subprocess.run(["bash", "-ec", edit], cwd=study.root, check=True)
    (edited,) = (name for name, recipe in study.config["recipes"].items() if recipe != before[name])
    gathering = ("aggregate", "plot", "samples", "report")
    reached = [job for job in study.planned() if re.search(rf"=({edited})\b(?!-)", job) or job.split()[0] in gathering]
    counts = Counter(["all", *(job.split()[0] for job in reached)])
    said = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", listed, re.M)}
    assert said == {**counts, "total": counts.total()}


def test_an_added_recipe_runs_itself(study):
    study.configure(lambda c: c["recipes"].update(third={"preset": "rtn-w3a16"}))
    assert study.planned() == quantized("third")


def test_replicates_of_a_recipe_draw_quantize_and_score_themselves(study):
    study.configure(lambda c: c["recipes"]["second-order"].update(replicates=2))
    new = {f"quantize recipe=second-order@1 chunk={k}" for k in CHUNKS} | {"export recipe=second-order@1 form=fake"}
    new |= asked("second-order@1.fake", "text") | {"tokens calibration=traces@1", "collect calibration=traces@1"}
    new |= {"overlap calibration=traces@1 task=text"}
    assert study.planned() == new | END


def test_a_removed_recipe_remakes_the_tables(study):
    study.configure(lambda c: c["recipes"].pop("rounded"))
    assert study.planned() == END


def test_swapped_bits_run_the_recipe(study):
    """Snakemake compares params as a set of values: as separate params, swapped values would look unchanged."""
    scheme = {"weights": {"num_bits": 8, "strategy": "channel"}, "input_activations": {"num_bits": 4}}
    study.configure(lambda c: c["recipes"].update(rounded={"scheme": scheme}))
    assert study.run("--until", "quantize") == {f"quantize recipe=rounded chunk={k}" for k in CHUNKS}
    assert not any(job.startswith("quantize") for job in study.planned())
    swapped = {"weights": {"num_bits": 4, "strategy": "channel"}, "input_activations": {"num_bits": 8}}
    study.configure(lambda c: c["recipes"].update(rounded={"scheme": swapped}))
    assert study.planned() == quantized("rounded")


def test_an_added_form_runs_its_exports_and_their_verification(study):
    study.configure(lambda c: c.update(forms={"compressed-tensors": "all"}))
    exports = END | {f"{job} recipe={r} form=compressed-tensors" for job in ("export", "verify") for r in BOTH}
    assert study.planned() == exports
    assert study.run() == exports
    assert study.planned() == set()
    with open(study.root / "workflow/ptqflow/checkpoints/compressed_tensors_scheme.py", "a") as file:
        file.write("\nNEW_CONSTANT = 1\n")
    assert study.planned() == exports


def test_a_new_seed_adds_its_generations(study):
    study.configure(lambda c: c["suites"]["prose"].update(seeds=[0, 1]))
    assert study.planned() == END.union(*(asked(v, "text", seed=1) for v in VARIANTS))


def added(study: Checkout) -> None:
    """One more task in the suite, with its own keys."""
    entry = {"benchmark": "choices", "source": {"path": "resources/tasks/facts"}, "limit": 8}
    study.configure(lambda c: (c["tasks"].update(facts=entry), c["suites"]["prose"]["tasks"].append("facts")))


def test_an_added_task_is_asked_alone_and_a_removed_one_asks_nothing(study):
    added(study)
    with_samples = END | {"plot figure=accuracy", "plot figure=pareto", "samples"}
    assert study.planned() == with_samples.union(overlap("facts"), *(asked(v, "facts") for v in VARIANTS))
    study.run(LAYER_ERROR)
    study.configure(
        lambda c: c["suites"]["prose"].update(noise_batch_sizes=[3])
    )  # a floor for tasks with a score, not perplexity
    assert study.planned() == with_samples | asked("baseline@3", "facts")
    study.configure(lambda c: c["suites"]["prose"].pop("noise_batch_sizes"))
    study.configure(lambda c: c["suites"]["prose"]["tasks"].remove("facts"))
    assert study.planned() == END
    added(study)
    study.configure(lambda c: c["tasks"]["facts"].update(normalization="bytes"))  # a metric: scored again, not asked again
    assert study.planned() == with_samples.union(*(asked(v, "facts", stages=("score",)) for v in VARIANTS))
    study.configure(lambda c: c["tasks"]["facts"].update(normalization="none", bos=True))  # a protocol: asked again
    assert study.planned() == with_samples.union(*(asked(v, "facts") for v in VARIANTS))


def test_a_changed_scorer_scores_again_and_generates_nothing(study):
    with open(study.root / "workflow/ptqflow/evaluation/scoring/perplexity.py", "a") as file:
        file.write("\nNEW_CONSTANT = 1\n")
    assert study.planned() == END.union(*(asked(v, "text", stages=("score",)) for v in VARIANTS))


def test_a_benchmarks_own_scorer_scores_again_and_its_item_asks_again(study):
    """Both stand in one file: the digest of a stage is of what it reaches there."""
    path = "workflow/ptqflow/evaluation/benchmarks/text.py"
    study.edit(
        path, "import score as score\n", "import score as other\n\n\ndef score(row, metric):\n    return other(row, metric)\n"
    )
    assert study.planned() == END.union(*(asked(v, "text", stages=("score",)) for v in VARIANTS))
    study.edit(path, 'row["text"])', 'row["text"].strip())')
    assert study.planned() == END.union(overlap("text"), *(asked(v, "text") for v in VARIANTS))


def test_a_renamed_or_split_suite_asks_nothing(study):
    """Which tasks share a suite is scheduling; a result is of a task, a seed and an engine."""
    study.configure(lambda c: c.update(suites={"other": c["suites"]["prose"]}))
    assert study.planned() == set()


def test_code_of_a_figure_remakes_the_figure(study):
    with open(study.root / "workflow/ptqflow/reporting/figures/layer_error.py", "a") as file:
        file.write("\nNEW_CONSTANT = 1\n")
    assert study.planned() == {"plot figure=layer_error", "report"}


def test_a_fetched_identical_model_runs_nothing(study):
    """The source's files are copied anew (new times, same content), and the model is fetched again."""
    source = study.root / "resources/demo-model"
    for file in source.iterdir():
        shutil.copyfile(file, file.with_suffix(".copy"))
        os.replace(file.with_suffix(".copy"), file)
    assert study.planned() == set()
    assert study.run("--forcerun", "fetch", "--until", "fetch") == {"fetch part=models", "fetch part=notices"}
    assert study.planned() == set()


def test_a_changed_source_file_runs_what_depends_on_it(study):
    with open(study.root / "resources/tasks/text/test.jsonl", "a") as file:
        file.write('{"id": "new", "text": "One more line of text."}\n')
    assert study.planned() == END.union(overlap("text"), *(asked(v, "text") for v in VARIANTS))


def test_a_changed_calibration_file_runs_all_but_the_baseline(study):
    path = study.root / "resources/calibration/traces.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[1:]) + "\n")
    drawn = {"tokens calibration=traces", "collect calibration=traces"} | overlap("text")
    assert study.planned() == quantized(*BOTH) | drawn


def test_a_changed_model_runs_everything(study):
    study.edit("resources/demo-model/generation_config.json", "{", "{ ")
    drawn = {"fetch part=models", "tokens calibration=traces", "collect calibration=traces"} | overlap("text")
    everything = drawn | BASELINE | quantized(*BOTH)
    assert study.planned() == everything


@pytest.mark.parametrize("name", ["README.md", "LICENSE"])
def test_a_changed_card_or_licence_exports_again_and_computes_no_integers(study, name):
    """Nothing is computed of them, and they travel with checkpoints. A picture beside them does not."""
    model = study.root / "resources/demo-model"
    (model / "picture.png").write_bytes(b"a picture")
    assert study.planned() == set()
    with open(model / name, "a") as file:
        file.write("\nOne more line.\n")
    exported = {"fetch part=notices"} | below(*BOTH)
    assert study.planned() == exported
    assert study.run("--until", "export") == {"fetch part=notices", *(f"export recipe={r} form=fake" for r in BOTH)}
    carried = study.root / "results/cpu/checkpoints/demo/rounded/fake" / {"README.md": "README.source.md"}.get(name, name)
    assert carried.read_bytes() == (model / name).read_bytes()
    assert study.planned() == exported - {"fetch part=notices", *(f"export recipe={r} form=fake" for r in BOTH)}


def test_another_platforms_results_join_the_tables(study):
    """Results that another machine left under its platform's name are compared, and no job of this machine remakes them."""
    shutil.copytree(study.root / "results/cpu", study.root / "results/gpu")
    assert study.planned() == END
    study.run(LAYER_ERROR)
    assert set(pq.read_table(study.root / LAYER_ERROR)["platform"].to_pylist()) == {"cpu", "gpu"}
    assert study.planned(LAYER_ERROR) == set()


def test_another_platforms_results_of_another_recipe_stay_out_of_the_tables(study):
    """A recipe changed since: under its name these numbers would be wrong, and no job of this machine remakes them."""
    shutil.copytree(study.root / "results/cpu", study.root / "results/gpu")
    study.configure(lambda c: c["recipes"].update(rounded={"preset": "rtn-w4a16"}))
    study.run(LAYER_ERROR)
    table = pq.read_table(study.root / LAYER_ERROR).to_pylist()
    assert {(row["platform"], row["recipe"]) for row in table} == {("cpu", r) for r in BOTH} | {("gpu", "second-order")}


def test_real_run_after_an_edit_runs_what_was_planned_and_loads_each_model_once(study):
    old = {path: path.stat().st_mtime_ns for path in study.root.glob("results/cpu/generations/**/seed=0.parquet")}
    study.configure(lambda c: c["suites"]["prose"].update(seeds=[0, 1, 2]))
    planned = study.planned()
    assert study.run("--cores", "1") == planned
    assert study.planned() == set()
    logs = [path.read_text() for path in study.root.glob("results/logs/cpu/generations/**/seed=[12].log")]
    assert ["has asked this" in log for log in logs].count(False) == len(VARIANTS) == len(logs) / 2
    assert {path: path.stat().st_mtime_ns for path in old} == old
    assert not list(study.root.glob("results/cpu/generations/**/*.parts"))


def test_times_of_files_run_nothing_whatever_their_sizes(study, tmp_path):
    """A `touch`, results copied alone to another checkout, without times: what is in them is the same. An older backup is not."""
    path = "results/cpu/quantized/demo/second-order/chunk=0/qparams.safetensors"
    assert (study.root / path).stat().st_size > 1_000_000  # beyond what Snakemake compares by content
    (study.root / path).touch()
    assert study.planned() == set()
    elsewhere = Checkout.create(tmp_path / "elsewhere", SMALL_STUDY)
    shutil.copytree(study.root / "results", elsewhere.root / "results", copy_function=shutil.copyfile)
    for number, copied in enumerate(sorted((elsewhere.root / "results").rglob("*"), reverse=True)):
        os.utime(copied, (1_600_000_000 + number, 1_600_000_000 + number))
    assert elsewhere.planned() == set()
    qparams = elsewhere.root / path
    backup = qparams.read_bytes()
    qparams.write_bytes(backup[:-1] + bytes([backup[-1] ^ 1]))
    os.utime(qparams, (1_500_000_000, 1_500_000_000))  # older than all that was made of its successor
    assert elsewhere.planned() == {"quantize recipe=second-order chunk=0"} | below("second-order")
