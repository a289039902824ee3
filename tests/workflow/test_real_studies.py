"""The studies of config/ are whole: every key and job is checked; only commits that were not known are missing, and said so."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from checkout import Checkout, jobs
from fake_hub import FakeHub
from model_folder import write_tokenizer
from ptqflow import configfile
from ptqflow.checked import load
from ptqflow.errors import ConfigError
from ptqflow.jobs import Jobs
from ptqflow.table_jobs import TableJobs
from tiny_models import tiny_model

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted(ROOT.glob("config/*.yaml"))

ROW = {
    **{"id": "1", "text": "A line."},
    **{"question": "One?", "answer": "1", "choices": {"text": ["1", "2"], "label": ["A", "B"]}, "answerKey": "A"},
    **{"ind": 0, "activity_label": "Counting", "ctx": "One,", "ctx_a": "One,", "ctx_b": "", "endings": ["two", "three"]},
    **{"goal": "Count", "sol1": "one", "sol2": "two", "label": 0},
}  # a row of gsm8k, wikitext, ai2_arc, hellaswag and piqa at once


def completed(path: Path) -> tuple[dict, int]:
    """A study with a commit wherever none stands, and how many those are."""
    text = path.read_text()
    config = yaml.safe_load(text)
    missing = [e["source"] for part in ("models", "calibrations", "tasks") for e in config[part].values()]
    missing = [source for source in missing if "repo" in source and source["revision"] is None]
    for source in missing:
        source["revision"] = "0" * 40
    return config, len(missing)


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A study's folder, with what `make study-real` puts there: files by their names, and a Llama of another size."""
    tiny_model(tmp_path / "smollm2", "llama", max_position_embeddings=512)
    write_tokenizer(tmp_path / "smollm2")
    texts = ["gsm8k/main/train", "wikitext/wikitext-2-raw-v1/test", "ai2_arc/ARC-Easy/test", "hellaswag/data/validation"]
    for name in [*texts, "piqa/data/validation"]:
        file = tmp_path / "data" / f"{name}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([ROW]), file)
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("beside")
def test_every_job_of_a_real_study_can_be_told_what_to_do(path):
    configfile.check(path)
    config, missing = completed(path)
    planned = Jobs(load(config))
    files = TableJobs(planned.study).aggregate_inputs()
    recipes, models = len(config["recipes"]), len(config["models"])
    assert len(files) > models * recipes * len(config["tasks"])
    for model in config["models"]:
        for recipe in config["recipes"]:
            assert planned.quantize(model, recipe, 0)
    if missing:
        with pytest.raises(ConfigError, match="revision"):
            load(yaml.safe_load(path.read_text()))


def test_items_in_a_calibration_set_are_said_of_the_recipes_that_learn_from_it_alone(monkeypatch):
    """Plain rounding measures its errors on the set, and makes nothing of it."""
    monkeypatch.chdir(ROOT)
    study = load(yaml.safe_load(Path("config.yaml").read_text()) | {"run": ["rtn-w8a8", "awq-w4", "smoothquant-w8a8", "rtn-w4"]})
    for overlap in json.loads(TableJobs(study).aggregate())["overlaps"]:
        assert overlap["recipes"] == ["awq-w4", "smoothquant-w8a8"]


def test_what_is_decided_by_reruns_the_tables_alone(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load(Path("config.yaml").read_text())
    before, after = (Jobs(load(config | {"decide": decide})) for decide in ({}, {"max_drop": 2.0, "engine": "transformers"}))
    tables = [TableJobs(jobs.study) for jobs in (before, after)]
    assert tables[0].aggregate() != tables[1].aggregate()
    assert tables[0].aggregate_code() == tables[1].aggregate_code()
    told = [
        (lambda jobs, name=name, args=args: getattr(jobs, name)(*args))
        for name, args in (
            ("quantize", ("demo", "awq-w4", 0)),
            ("quantize_code", ("demo", "awq-w4")),
            ("export", ("awq-w4", "compressed-tensors")),
            ("generate", ("demo", "transformers", "arithmetic", 0)),
            ("score", ("arithmetic",)),
            ("measure", ("demo", "transformers")),
            ("verify", ("awq-w4", "compressed-tensors")),
        )
    ]
    assert [ask(before) for ask in told] == [ask(after) for ask in told]
    with pytest.raises(ConfigError, match=r"decide\.engine"):
        load(config | {"decide": {"engine": "vllm"}})


def test_asking_for_a_rescue_quantizes_no_chunk_again_and_plans_one_job(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load(Path("config/collapse.yaml").read_text())
    recipe = config["recipes"]["flat-w4a4kv4-E0"]

    def planned(**changes):
        return Jobs(load(config | {"recipes": {"flat-E0": recipe | changes, "other": {"preset": "rtn-w8a8"}}}))

    plain, asked, changed = planned(), planned(rescue={}), planned(rescue={"budget": 3})
    chunks = range(2)
    for rescuing in (asked, changed):
        assert [rescuing.quantize("demo", "flat-E0", k) for k in chunks] == [plain.quantize("demo", "flat-E0", k) for k in chunks]
        assert rescuing.quantize_code("demo", "flat-E0") == plain.quantize_code("demo", "flat-E0")
        assert rescuing.export("flat-E0", "fake") != plain.export("flat-E0", "fake")
        assert rescuing.export("other", "fake") == plain.export("other", "fake")
    assert asked.rescue("flat-E0") != changed.rescue("flat-E0")
    rescues = [path for path in TableJobs(asked.study).aggregate_inputs() if "/rescued/" in path]
    assert rescues == ["results/cpu/rescued/demo/flat-E0/rescue.parquet"]
    assert not [path for path in TableJobs(plain.study).aggregate_inputs() if "/rescued/" in path]


# Where each is meant to run (config/README.md); the others on this machine's CPU.
WHERE = {"evening": "gpu-local", "paper-reasoning": "gpu", "paper-qa": "gpu", "qwen3": "ascend"}
SITE = "slurm: {partition: batch, device_partition: fast, gres: npu}\n"


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one-recipe", "whole"])
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_real_study_is_planned_by_the_real_snakemake_and_asks_nothing_of_the_hub(path, whole, beside, tmp_path, monkeypatch):
    config, _ = completed(path)
    if not whole:
        config["run"] = list(config["recipes"])[:1]
    study = Checkout.create(tmp_path / "checkout", config)
    for part in ("smollm2", "data"):
        (study.root / part).symlink_to(tmp_path / part)
    profile = WHERE.get(path.stem, "local")
    if profile in ("gpu", "ascend"):
        (study.root / "site.yaml").write_text(SITE)
    monkeypatch.setenv("PTQFLOW_PYTHON_VLLM", sys.executable)
    monkeypatch.setenv("SLURM_CONF", "/dev/null")  # no cluster of this machine is asked
    with FakeHub({}).serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        done = study.snakemake("--profile", profile, "-n")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert not hub.requests
    found, platform = jobs(done.stdout), {"local": "cpu"}.get(profile, profile.removesuffix("-local"))
    for model, entry in config["models"].items():
        assert f"results/{platform}/scores/{model}" in done.stdout
        for recipe in config["run"] if not whole else config["recipes"]:
            assert any(job.startswith("quantize") and recipe in job and f"chunk={entry['chunks'] - 1}" in job for job in found)
