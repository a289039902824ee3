"""Commands that a user starts with: what they print is true, and what cannot be is one sentence."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from checkout import REPOSITORY
from ptqflow import asked, cli, paths, profiles, system
from ptqflow.checkpoints import registry
from ptqflow.commands import run as run_command
from ptqflow.commands.card import _NUMBERS, _scores
from ptqflow.commands.check import study_of
from ptqflow.commands.located import located, named
from ptqflow.errors import ConfigError
from ptqflow.presets import PRESETS
from snakemake.cli import parse_args

DEMO = str(REPOSITORY / "resources/demo-model")


def test_every_command_says_what_it_does_and_gives_examples(capsys):
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0
        assert f"  ptqflow {name}" in capsys.readouterr().out


def test_the_version_is_said(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("ptqflow ")


def test_recipes_lists_every_preset_with_the_forms_that_hold_it(capsys):
    assert cli.main(["recipes"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in PRESETS)
    assert "forms: autoawq, compressed-tensors, fake, gptq" in said


def test_recipes_says_of_presets_that_differ_what_differs(capsys):
    """GPTQ, GPTAQ, rotation and tokens by attention had one sentence."""
    cli.main(["recipes"])
    said = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines() if "Made with" in line]
    assert len(said) == len(set(said)) == len(PRESETS)
    made = "Made with rounding gptq (token_weights: attention), rotation hadamard, clip hessian."
    assert any(line.endswith(made) for line in said)


def test_who_has_read_enough_ends_a_command_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "ptqflow", "recipes"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_formats_says_of_each_recipe_and_form_yes_or_why_not(capsys):
    assert cli.main(["formats", DEMO, "--recipe", "rtn-w8a8", "awq-w4a16"]) == 0
    said = capsys.readouterr().out
    columns, *rows = (line.split() for line in said.splitlines()[:3])
    held = {name: dict(zip(columns, cells, strict=True)) for name, *cells in rows}
    assert held["awq-w4a16"] | {"modelslim": "–"} == dict.fromkeys(columns, "yes") | {"modelslim": "–"}
    assert held["rtn-w8a8"] == {"fake": "yes", "autoawq": "–", "compressed-tensors": "yes", "gptq": "–", "modelslim": "–"}
    assert "GPTQ checkpoints quantize weights only" in said
    assert set(columns) == set(registry.forms())


def test_formats_says_what_does_not_fit_this_model(tmp_path, capsys):
    config = json.loads((REPOSITORY / "resources/demo-model/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 800}))
    assert cli.main(["formats", str(tmp_path), "--recipe", "awq-w4a16"]) == 0
    assert "group_size 128 does not divide" in capsys.readouterr().out
    assert cli.main(["formats", str(tmp_path), "--recipe", "awq-w4a16", "--set", "scheme.weights.group_size=32"]) == 0
    assert "group_size" not in capsys.readouterr().out
    assert cli.main(["formats", str(tmp_path), "--set", "scheme.weights.group_size=32"]) == 2
    assert "name a preset" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "said"),
    [("nowhere", "no folder or file here"), ("/tmp", "has no config.json"), (__file__, "has no config.json; name the folder")],
)
def test_a_model_that_is_not_there_is_one_sentence(model, said):
    with pytest.raises(ConfigError, match=said):
        located(model)


def test_names_of_models_become_names_of_folders():
    assert named("DeepSeek-R1-Distill-Qwen-1.5B") == "DeepSeek-R1-Distill-Qwen-1-5B"


def test_run_wants_a_study(tmp_path):
    with pytest.raises(ConfigError, match="ptqflow new"):
        run_command.workflow(tmp_path, "local", [])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"platform": "cpu"}))
    with pytest.raises(ConfigError, match="no such profile"):
        run_command.workflow(tmp_path, "moon", [])


@pytest.fixture
def asked_of_snakemake(monkeypatch, tmp_path):
    """What Snakemake makes of the command line that `workflow` gives it."""
    (tmp_path / "config.yaml").write_text("models: {}\n")

    def ask(profile, *options):
        commands = []
        monkeypatch.setattr(run_command.subprocess, "run", lambda command, **_: commands.append(command) or Mock(returncode=0))
        monkeypatch.setattr(
            run_command.subprocess, "Popen", lambda command, **_: commands.append(command) or Mock(pid=0, wait=int)
        )
        assert run_command.workflow(tmp_path, profile, options) == 0
        return parse_args(commands[-1][3:])[1]

    return ask


def test_files_and_settings_of_a_users_own_leave_the_profiles_platform(tmp_path, asked_of_snakemake):
    """Together they would replace both places in which a profile says it."""
    (own := tmp_path / "own.yaml").write_text("calibration: x\n")
    asked = asked_of_snakemake("gpu-local", "-n", "--configfile", str(own), "--config", "run=all")
    assert [*map(Path, asked.configfile)] == [own, REPOSITORY / "workflow/profiles/gpu-local/platform.yaml"]
    assert asked.config == ["run=all"]


@pytest.mark.parametrize("options", [["-n", "results/report.html"], ["results/report.html", "--keep-going"]])
def test_a_target_is_a_target(asked_of_snakemake, options):
    """And no value of the option before it."""
    assert list(asked_of_snakemake("local", *options).targets) == ["results/report.html"]


def test_a_mistyped_preset_is_named_where_there_is_no_study(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explain", "awq-w4"]) == 2
    assert "no recipe 'awq-w4'; config.yaml defines (none), and presets are" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["-n", "-np", "-pn", "-nq", "--dry-run", "--dag=dot", "--unlock", "-S", "--lc=params", "--lt"])
def test_a_plan_is_known_however_it_is_asked_for(option):
    assert asked.plans_only(["--cores", "1", option])
    assert not asked.plans_only(["--cores", "1", "-p", "-k", "-j4", "--rerun-incomplete", "--until", "plan"])


def test_rules_import_no_command():
    """A command starts Snakemake, which reads the rules: they share what lies below both."""
    rules = [REPOSITORY / "Snakefile", *(REPOSITORY / "workflow/rules").glob("*.smk")]
    assert not [path.name for path in rules if "ptqflow.commands" in path.read_text()]


def test_what_a_profile_says_may_be_said_otherwise_by_key_alone(tmp_path):
    (tmp_path / "platform.yaml").write_text("platform: gpu\n")
    command, study = ["--profile", tmp_path.name, "-n"], SimpleNamespace(platform="cpu")
    profiles.refuse_lost(["-n"], str(tmp_path.parent), study, {})
    profiles.refuse_lost(command, str(tmp_path.parent), study, {"platform": "cpu"})
    profiles.refuse_lost(command, str(tmp_path.parent), SimpleNamespace(platform="gpu"), {})
    with pytest.raises(ConfigError, match="says platform: gpu"):
        profiles.refuse_lost(command, str(tmp_path.parent), study, {"run": "all"})


def test_a_profile_of_a_users_own_says_its_platform_once_too(tmp_path):
    (tmp_path / "profile.yaml").write_text("cores: 2\nconfig: [platform=gpu]\n")
    assert profiles.stated(tmp_path) == {"platform": "gpu"}
    assert run_command.profile_options(str(tmp_path)) == ["--profile", str(tmp_path)]
    (tmp_path / "platform.yaml").write_text("platform: ascend\n")
    assert profiles.stated(tmp_path) == {"platform": "ascend"}
    assert run_command.profile_options(str(tmp_path))[:2] == ["--configfile", str(tmp_path / "platform.yaml")]


def test_a_study_is_named_by_its_folder_or_its_file(tmp_path, monkeypatch, capsys):
    """The same in every command; behind options, Snakemake would take it for a target."""
    (study := tmp_path / "mine").mkdir()
    (study / "config.yaml").write_text("models: {}\nrecipes: {mine: {preset: gptq-w4a16, replicates: 3}}\n")
    monkeypatch.chdir(tmp_path)
    ran = []
    monkeypatch.setattr(run_command, "workflow", lambda study, *_: ran.append(study) or 1)
    for place in ("mine", "mine/config.yaml"):
        assert cli.main(["run", place, "-n"]) == 1
        assert cli.main(["run", "-n", place]) == 2
        assert f"{place}: the study comes first: `ptqflow run {place} -n`" in capsys.readouterr().err
        assert cli.main(["explain", "mine", "--config", place]) == 0
        assert cli.main(["formats", DEMO, "--recipe", "mine", "--config", place]) == 0
        assert cli.main(["recipes", "--config", place]) == 0
    assert ran == [Path("mine")] * 2
    assert cli.main(["run", "-n", "--configfile", "mine/config.yaml"]) == 1
    (tmp_path / "other.yaml").write_text("")
    for command in ("run", "check"):
        assert cli.main([command, "other.yaml"]) == 2
    assert capsys.readouterr().err.count("other.yaml: a study is a folder with config.yaml; name that folder or file") == 2


@pytest.mark.parametrize("command", [["recipes"], ["formats", DEMO]])
def test_a_wrong_recipe_of_a_study_is_named_in_our_words(tmp_path, capsys, command):
    (tmp_path / "config.yaml").write_text("recipes: {fine: {preset: rtn-w8a8}, mine: {preset: rtn-w8a8, replicate: 2}}\n")
    assert cli.main([*command, "--config", str(tmp_path)]) == 2
    assert "recipes.mine: replicate: unknown key; did you mean 'replicates'?" in capsys.readouterr().err


def test_an_interrupted_run_says_that_what_is_done_is_kept(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with run_command._interrupts_go_to_jobs() as (came, _):
        os.kill(os.getpid(), signal.SIGINT)
    said = run_command.why_it_ended(tmp_path, 130, came)
    assert said == "Stopped by Ctrl-C. All jobs that are done are kept: the same command goes on where it ended."
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_at_its_end_a_run_says_each_warning_once(tmp_path):
    said = "quantize: 3 of 28 linears and blocks not as the recipe says: no inverse"
    for chunk in range(3):
        log = tmp_path / f"results/logs/cpu/quantized/demo/gptq-w4/chunk={chunk}/qparams.log"
        log.parent.mkdir(parents=True)
        log.write_text(f"{said}\n" + ("quantize: warning: it overfits\n" if chunk else ""))
    first, second = run_command.warnings(tmp_path)
    assert first == f"results/logs/cpu/quantized/demo/gptq-w4/chunk=0/qparams.log and 2 more: {said}"
    assert second == "results/logs/cpu/quantized/demo/gptq-w4/chunk=1/qparams.log and 1 more: quantize: warning: it overfits"


def test_the_end_of_a_run_counts_what_the_study_asks_for(tmp_path, capsys, monkeypatch):
    """And no recipe that it had before."""
    cli.main(["new", str(tmp_path), "--model", DEMO, "--recipes", "rtn-w8a8", "gptq-w4a16"])
    for recipe in ("rtn-w8a8", "gptq-w4a16"):
        manifest = tmp_path / paths.checkpoint("gpu", "demo-model", f"{recipe}.fake")
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"files": {}, "origin": {"fallbacks": {"no inverse": 3}}}))
        log = tmp_path / paths.log(paths.quantized("qparams.safetensors", "gpu", "demo-model", recipe, 0))
        log.parent.mkdir(parents=True)
        log.write_text(f"quantize: warning: {recipe} overfits\n")
    (log := tmp_path / paths.log(paths.model("demo-model"))).parent.mkdir(parents=True)
    log.write_text("no verdict\n")
    monkeypatch.chdir(tmp_path)
    study = study_of(tmp_path)
    for run, fallbacks in ((["rtn-w8a8", "gptq-w4a16"], 6), (["rtn-w8a8"], 3)):
        asked.remember(study.model_copy(update={"run": run}))
        capsys.readouterr()
        run_command._print_end(tmp_path)
        said = capsys.readouterr().out
        assert f"{fallbacks} fallback(s) in all" in said
        assert said.count("checkpoint: ") == said.count(" overfits") == len(run)
        assert "no verdict" in said


def test_a_card_shows_scores_of_one_form_and_says_which(tmp_path):
    row = {"platform": "cpu", "model": "m", "recipe": "r", "engine": "transformers", "task": "t", "metric": "accuracy"}
    row |= {"items": 10, "seeds": 1} | dict.fromkeys(_NUMBERS, 1.0)
    rows = [row | {"form": form, "score": score} for form, score in (("fake", 50.0), ("gptq", 60.0))]
    pq.write_table(pa.Table.from_pylist(rows), file := tmp_path / "accuracy.parquet")
    who = {"platform": "cpu", "model": "m", "recipe": "r"}
    for form, score, other in (("fake", "50.00", "60.00"), ("gptq", "60.00", "50.00"), ("autoawq", "50.00", "60.00")):
        said = _scores(file, who, form)
        assert score in said
        assert other not in said
        assert ("Measured on form `fake`" in said) == (form == "autoawq")


def test_a_run_leaves_what_its_study_asks_for_and_a_plan_changes_nothing_of_it(finished):
    finished.run("-n", "--config", "run=[rounded]")
    assert (finished.root / asked.FILE).read_text().splitlines() == ["demo/rounded/fake", "demo/second-order/fake"]


def test_sigterm_ends_snakemake_and_its_jobs_as_ctrl_c_does(tmp_path):
    """Else they would run on with nobody to wait for them, and hold the study's lock."""
    with run_command._interrupts_go_to_jobs() as (came, started):
        starts_a_job = "import subprocess; job = subprocess.Popen(['sleep', '60']); print('on', flush=True); job.wait()"
        snakemake = subprocess.Popen([sys.executable, "-c", starts_a_job], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(snakemake.pid)
        snakemake.stdout.readline()
        os.kill(os.getpid(), signal.SIGTERM)
        snakemake.communicate(timeout=10)  # until the job has ended too: it holds the same pipe
        assert snakemake.returncode == -signal.SIGINT
    assert "Stopped by SIGTERM. All jobs that are done are kept" in run_command.why_it_ended(tmp_path, 1, came)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_full_disk_is_said_before_snakemake_starts(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.yaml").write_text("models: {}\n")
    monkeypatch.setattr(system, "TemporaryFile", lambda dir: open("/dev/full", "wb"))  # noqa: SIM115
    assert cli.main(["run", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ptqflow run: {tmp_path} cannot be written (No space left on device)")
    assert said.count("\n") == 1


def test_a_card_gets_the_scores_of_its_recipe_with_intervals(finished, capsys):
    folder = finished.root / "results/cpu/checkpoints/demo/rounded/fake"
    before = (folder / "README.md").read_bytes()
    assert cli.main(["card", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "| text (perplexity) | transformers |" in said
    assert "Nothing was measured" not in said
    assert (folder / "README.md").read_bytes() == before  # its manifest knows these bytes
    assert cli.main(["card", str(finished.root)]) == 2
    assert "no checkpoint of a study" in capsys.readouterr().err
