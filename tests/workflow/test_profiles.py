"""The literal commands of the README work in a fresh clone, and configuration is checked before any job."""

import os
import re
import subprocess
import sys

import pytest
import yaml
from checkout import SMALL_STUDY, Checkout, environment, jobs


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Checkout:
    return Checkout.create(tmp_path_factory.mktemp("fresh") / "checkout")


def plan(checkout: Checkout, profile: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["snakemake", "--profile", profile, "-n", *options]
    variables = environment() | {"SLURM_CONF": "/dev/null"}  # no cluster of this machine is asked
    return subprocess.run(command, cwd=checkout.root, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("profile", "platform"), [("local", "cpu"), ("gpu-local", "gpu"), ("ascend-local", "ascend")])
def test_profile_plans_the_default_study_for_its_platform(fresh, profile, platform):
    done = plan(fresh, profile)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"fetch part=models", "tokens calibration=traces"} <= jobs(done.stdout)
    assert f"results/{platform}/scores/demo/baseline" in done.stdout


def test_a_study_outside_the_repository_is_compared_with_published_numbers(fresh, tmp_path):
    """They are named by the variable that says where the code lies: code that is moved reruns nothing."""
    study = yaml.safe_dump(SMALL_STUDY).replace("resources/", f"{fresh.root}/resources/")
    (tmp_path / "config.yaml").write_text(study)
    done = plan(fresh, "local", "--snakefile", "Snakefile", "--directory", str(tmp_path), "--printshellcmds")
    assert done.returncode == 0, done.stdout + done.stderr
    (command,) = re.findall(r" aggregate --settings .*", done.stdout)
    assert set(re.findall(r"(\S+)/\w+\.csv", command)) == {'"$PTQFLOW_CODE"/../resources/reference'}


SITE = "slurm: {partition: batch, device_partition: fast, account: mine, gres: npu:910b}\n"


def test_a_cluster_is_asked_in_its_own_words(tmp_path, monkeypatch):
    shared = {"tasks": ["text"], "engine": "vllm", "forms": ["compressed-tensors"], "tensor_parallel": 2}
    suites = SMALL_STUDY["suites"] | {"served": shared}
    study = Checkout.create(tmp_path / "checkout", SMALL_STUDY | {"suites": suites, "forms": ["fake", "compressed-tensors"]})
    monkeypatch.setenv("PTQFLOW_PYTHON_VLLM", sys.executable)
    missing = plan(study, "ascend")
    assert missing.returncode != 0
    assert "site.yaml does not exist; copy workflow/profiles/site.yaml there" in missing.stdout + missing.stderr
    (study.root / "site.yaml").write_text(SITE)
    done = plan(study, "ascend")
    assert done.returncode == 0, done.stdout + done.stderr
    blocks = done.stdout.split("\nrule ")[1:]
    asked = {block.split(":", 1)[0]: block for block in blocks}
    assert "slurm_partition=fast, slurm_account=mine, gres=npu:910b:1" in asked["quantize"]
    assert "slurm_partition=batch, slurm_account=mine" in asked["export"]
    assert "gres" not in asked["export"]
    asking = [block for block in blocks if block.startswith("generate")]
    assert all(("accelerator=2" in block) == ("gres=npu:910b:2" in block) == ("engine=vllm" in block) for block in asking)
    assert any("engine=vllm" in block for block in asking)
    (study.root / "site.yaml").write_text(SITE + "stand_in: true\n")
    assert "results/ascend" not in plan(study, "ascend").stdout, "what a CPU computes is filed as a CPU's"


def test_the_site_of_a_cluster_leaves_one_machine_its_bounds(tmp_path, monkeypatch):
    """Else as many jobs would start as there are cores, whatever memory and devices there are."""
    shared = {"tasks": ["text"], "engine": "vllm", "tensor_parallel": 2}
    study = Checkout.create(tmp_path / "checkout", SMALL_STUDY | {"run": ["second-order"], "site": "site.yaml"})
    (study.root / "site.yaml").write_text(SITE)
    assert "gres=" not in plan(study, "ascend-local").stdout
    study.configure(lambda c: c["suites"].update(served=shared))
    monkeypatch.setenv("PTQFLOW_PYTHON_VLLM", sys.executable)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0")
    refused = plan(study, "ascend-local")
    assert "tensor_parallel 2: this machine has 1 devices (0)" in refused.stdout + refused.stderr


def test_a_job_asks_for_no_more_cores_than_a_node_has(tmp_path, monkeypatch):
    """Else it would wait for ever: a timing wants four."""
    study = Checkout.create(tmp_path / "checkout", SMALL_STUDY)
    (study.root / "site.yaml").write_text(SITE)
    (tmp_path / "sinfo").write_text('#!/bin/sh\nfor p in batch fast; do echo "$p|2|200000|1-00:00:00|npu:910b:2|$p"; done\n')
    (tmp_path / "squeue").write_text("#!/bin/sh\n")  # the plugin wants it where there is an sinfo
    for name in ("sinfo", "squeue"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = plan(study, "ascend", "--cores", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    (timing, *_) = [block for block in done.stdout.split("\nrule ")[1:] if block.startswith("measure")]
    assert "threads: 2" in timing


@pytest.mark.parametrize("option", [("--config", "run=all"), ("--configfile", "config.yaml")], ids=lambda o: o[0])
def test_options_of_the_user_leave_the_profiles_platform(fresh, option):
    """Both options replace the profile's own; the platform must survive either."""
    done = plan(fresh, "gpu-local", *option)
    assert "results/gpu/scores" in done.stdout
    assert "results/cpu" not in done.stdout


def test_what_takes_away_the_profiles_platform_is_refused(fresh):
    """Else the study of a GPU would be planned for the CPU."""
    both = ["--config", "run=all", "--configfile"]
    lost = plan(fresh, "gpu-local", *both, "config.yaml")
    assert lost.returncode != 0
    said = "--profile gpu-local says platform: gpu, but --config and --configfile together take its place"
    assert said in lost.stdout + lost.stderr
    assert "results/gpu/scores" in plan(fresh, "gpu-local", *both, "config.yaml", "gpu-local/platform.yaml").stdout


def _refuse_unknown(c):
    c["recipes"]["rounded"]["sceme"] = {}


def _refuse_preset(c):
    c["recipes"]["rounded"] = {"preset": "gptq-w5a16"}


def _refuse_run(c):
    c["run"] = ["rounded", "awq"]


def _refuse_group(c):
    scheme = {"weights": {"num_bits": 4, "strategy": "group", "group_size": 96}}
    c["recipes"]["rounded"] = {"scheme": scheme}


def _refuse_layer(c):
    c["recipes"]["rounded"]["overrides"] = [{"layers": [77], "weights": None}]


def _refuse_file(c):
    c["calibrations"]["traces"]["source"]["path"] = "resources/calibration/absent.jsonl"


def _refuse_model(c):
    c["models"]["demo"]["source"]["path"] = "resources/absent"


def _refuse_revision(c):
    c["models"]["demo"] = {"source": {"repo": "org/model", "revision": "main"}, "layers": 2}


def _refuse_chunks(c):
    c["models"]["demo"]["chunks"] = 99


def _refuse_task(c):
    c["suites"]["prose"]["tasks"] = ["poetry"]


def _refuse_benchmark(c):
    c["tasks"]["text"]["benchmark"] = "gsm9k"


def _refuse_engine(c):
    c["latency"]["transformers"]["engine"] = "vlm"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_refuse_unknown, ["recipes.rounded", "sceme", "scheme"]),
        (_refuse_preset, ["recipes.rounded", "gptq-w5a16", "gptq-w4a16"]),
        (_refuse_run, ["run", "'awq'", "rounded"]),
        (_refuse_group, ["rounded", "group_size 96", "does not divide", "demo"]),
        (_refuse_layer, ["rounded", "77", "demo", "`overrides` of its own"]),
        (_refuse_file, ["calibrations.traces.source", "resources/calibration/absent.jsonl", "does not exist"]),
        (_refuse_model, ["resources/absent"]),
        (_refuse_revision, ["models.demo.source", "main", "40"]),
        (_refuse_chunks, ["models.demo.chunks", "99"]),
        (_refuse_task, ["suites.prose.tasks", "poetry", "text"]),
        (_refuse_engine, ["latency.transformers.engine", "vlm", "transformers"]),
        (_refuse_benchmark, ["tasks.text", "gsm9k", "gsm8k"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_wrong_configuration_is_one_sentence_before_any_job(fresh, spoil, words, tmp_path):
    study = Checkout.create(tmp_path / "checkout", SMALL_STUDY)
    study.configure(spoil)
    done = study.snakemake("-n")
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert all(word in output for word in words), output
    assert "Traceback" not in output
    assert not (study.root / "results").exists()


def test_snakemakes_lint_asks_for_nothing_but_an_image(tmp_path):
    """The image is the site's to name (site.yaml); with one, nothing is left (tests/cluster)."""
    said = Checkout.create(tmp_path / "study", SMALL_STUDY).snakemake("--lint")
    lints = set(re.findall(r"^    \* (.+)$", said.stdout + said.stderr, flags=re.MULTILINE))
    assert lints == {"Specify a conda environment or container for each rule.:"}
