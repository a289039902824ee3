"""One model by one recipe: what a user types becomes a study that says the same, and what comes out is the checkpoint."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from checkout import REPOSITORY, environment
from fake_hub import FakeHub
from ptqflow import cli, configfile, estimate
from ptqflow.artifacts import schemas
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.tables import write_rows
from ptqflow.commands import quantize_model
from ptqflow.commands.check import _reason, computes_here, study_of
from ptqflow.commands.entries import calibration_entry, recipe_entry, settings
from ptqflow.commands.located import Located, located
from ptqflow.commands.run import PROFILES, alone
from ptqflow.entries import Suite
from ptqflow.errors import ConfigError
from ptqflow.evaluation.tasks import task
from ptqflow.presets import resolve

DEMO = REPOSITORY / "resources/demo-model"
TRACES = REPOSITORY / "resources/calibration/traces.jsonl"


@pytest.fixture
def started(monkeypatch):
    """The arguments that Snakemake would have been started with."""
    found: list = []
    monkeypatch.setattr(quantize_model, "workflow", lambda *args, **options: found.append(args) or 3)
    return found


def quantize(*options: object) -> int:
    return cli.main(["quantize-model", *map(str, options)])


def test_the_study_it_writes_is_the_one_that_was_asked_for(tmp_path, monkeypatch, started):
    out = tmp_path / "out"
    changes = ["scheme.weights.num_bits=3", "calibration.samples=8", "calibration.sequence_length=64"]
    told = ["--set", changes[0], "--set", *changes[1:]]  # neither takes the other's place
    assert quantize(DEMO, "--recipe", "awq-w4a16", "--out", out, "--calibration", TRACES, *told, "--cores", 1) == 3
    (work, profile, targets), *_ = started
    assert (work, profile) == (tmp_path / "out.work", "local")
    place = "results/cpu/checkpoints/demo-model/awq-w4a16/compressed-tensors/manifest.json"
    assert targets[:4] == ["--cores", "1", "--", place]
    monkeypatch.chdir(tmp_path)
    study = study_of(work)
    changed = resolve({"preset": "awq-w4a16", "scheme": {"weights": {"num_bits": 3}}})
    assert study.recipes["awq-w4a16"].dump() == study.recipes["awq-w4a16"].dump() | changed.dump()
    assert study.checkpoints(None) == [("awq-w4a16", "fake"), ("awq-w4a16", "compressed-tensors")]
    calibration = study.calibrations["calibration"]
    assert (calibration.samples, calibration.sequence_length, calibration.format) == (8, 64, "chat")


def test_a_branch_of_the_hub_is_resolved_to_its_commit_and_recorded(tmp_path, monkeypatch, started):
    import huggingface_hub.constants as constants

    with FakeHub.of_folder(DEMO).serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        assert quantize(f"{hub.repo}@main", "--recipe", "rtn-w8a8", "--out", tmp_path / "out") == 3
        written = yaml.safe_load((tmp_path / "out.work/config.yaml").read_text())
        assert written["models"]["model"] == {
            "source": {"repo": hub.repo, "revision": hub.revision},
            "layers": 4,
            "model_type": "qwen2",
            "chunks": 1,
        }
        assert not any(path.endswith(".safetensors") for path, _ in hub.requests)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--recipe", "awq-w5"], "no preset and no file"),
        (["--recipe", "awq-w4a16"], "learns from calibration text; give --calibration"),
        (["--recipe", "rtn-w8a8", "--format", "gptq"], "GPTQ checkpoints quantize weights only"),
        (["--recipe", "rtn-w8a8", "--format", "gguf"], "form 'gguf' is unknown"),
        (["--recipe", "rtn-w8a8", "--set", "scheme.weights.bits=3"], "did you mean"),
        (["--recipe", "rtn-w8a8", "--set", "bits"], "give key=value"),
        (["--recipe", "rtn-w8a8", "--set", "calibration=9"], "give calibration.KEY=VALUE"),
        (["--recipe", "rtn-w8a8", "--calibration", "nowhere.jsonl"], "no folder or file here, and no dataset of the hub"),
        (["--recipe", "rtn-w8a8", "--chunks", "5"], "5 chunks of 4 blocks; use at most 4"),
        (
            ["--recipe", "flatquant-w4a4kv4", "--format", "fake", "--calibration", TRACES, "--set", "calibration.samples=1"],
            "transform flatquant) learns from 2 sequences or more",
        ),
        (
            ["--recipe", "rtn-w8a8", "--set", "calibration.sequence_length=1000000"],
            "sequences of 1000000 tokens, but model demo-model has",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence_before_any_job(tmp_path, capsys, started, options, said):
    assert quantize(DEMO, "--out", tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not started
    assert not (tmp_path / "out.work").exists()


def test_a_profile_of_the_users_own_says_where_it_computes(tmp_path, capsys, started):
    (mine := tmp_path / "mine").mkdir()
    (mine / "profile.yaml").write_text("cores: 2\n")
    options = ["--recipe", "rtn-w8a8", "--out", tmp_path / "out", "--profile", mine]
    assert quantize(DEMO, *options) == 2
    assert "states no platform; write `platform: cpu`" in capsys.readouterr().err
    assert not (tmp_path / "out.work").exists()  # refused before anything is written
    (mine / "profile.yaml").write_text("cores: 2\nconfig:\n  - platform=gpu\n")
    assert quantize(DEMO, *options) == 3
    (_, _, [*_, manifest, _]), *_ = started
    assert manifest.startswith("results/gpu/")


def test_a_folder_of_the_users_own_files_is_no_output(tmp_path, capsys, started):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert quantize(DEMO, "--recipe", "rtn-w8a8", "--out", tmp_path) == 2
    assert "name a new folder" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


def checkpoint(folder: Path, **origin: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("x")
    Manifest.of_folder(folder, ["model.safetensors"], origin).write(folder)
    return folder


def made_by(preset: str, folder: Path, **origin: object) -> Path:
    return checkpoint(folder, stage="export", settings={"recipe": resolve({"preset": preset}).dump()}, **origin)


@pytest.mark.parametrize(("option", "status", "said"), [("-np", 0, ""), ("-qn", 0, ""), ("--until", 2, "is of another recipe")])
def test_what_an_earlier_recipe_left_is_not_put_out_for_another(tmp_path, capsys, monkeypatch, option, status, said):
    old = made_by("rtn-w4a16", tmp_path / "old")
    monkeypatch.setattr(quantize_model, "workflow", lambda *_: 0)
    monkeypatch.setattr(quantize_model.paths, "checkpoint", lambda *_: old / "manifest.json")
    monkeypatch.setattr(quantize_model, "_print_end", lambda *_: None)
    options = ("--out", tmp_path / "out", "--work", tmp_path)
    assert quantize(DEMO, "--recipe", "rtn-w8a8", *options, option) == status
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert quantize(DEMO, "--recipe", "rtn-w4a16", *options) == 0
    assert (tmp_path / "out/model.safetensors").exists()


def test_a_folder_is_replaced_only_where_all_of_it_is_a_checkpoint_of_ours(tmp_path, capsys, started):
    (app := tmp_path / "app").mkdir()
    (app / "manifest.json").write_text('{"name": "an app of the web"}')
    (ours := checkpoint(tmp_path / "ours", stage="export")).joinpath("notes.md").write_text("years of work")
    for out, said in (
        (app, "no checkpoint of ptqflow's"),
        (checkpoint(tmp_path / "model", stage="fetch"), "no checkpoint of ptqflow's"),
        (ours, "holds notes.md, which the checkpoint there does not list"),
    ):
        assert quantize(DEMO, "--recipe", "rtn-w8a8", "--out", out) == 2
        assert said in capsys.readouterr().err
    (ours / "notes.md").unlink()
    assert quantize(DEMO, "--recipe", "rtn-w8a8", "--out", ours) == 3
    (ours / "notes.md").write_text("written while jobs ran")
    with pytest.raises(ConfigError, match=r"holds notes\.md"):
        quantize_model._publish(new := checkpoint(tmp_path / "new", stage="export"), Manifest.read(new / "manifest.json"), ours)


def test_what_is_edited_in_the_output_stays_there_and_what_changed_since_it_was_verified_does_not_go_out(
    tmp_path, capsys, monkeypatch
):
    done, out = made_by("rtn-w8a8", tmp_path / "done"), tmp_path / "out"
    monkeypatch.setattr(quantize_model, "workflow", lambda *_: 0)
    monkeypatch.setattr(quantize_model.paths, "checkpoint", lambda *_: done / "manifest.json")
    monkeypatch.setattr(quantize_model, "_print_end", lambda *_: None)
    options = ("--recipe", "rtn-w8a8", "--work", tmp_path)
    assert quantize(DEMO, *options, "--out", out) == 0
    (out / "manifest.json").write_text("edited in place")
    assert Manifest.read(done / "manifest.json").origin["stage"] == "export"
    (out / "model.safetensors").write_text("y")  # in place: the same file under another name
    assert quantize(DEMO, *options, "--out", tmp_path / "again") == 2
    assert "model.safetensors changed since its manifest was written" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_the_end_says_what_verification_measured(tmp_path, capsys):
    out, checks = checkpoint(tmp_path / "out", stage="export"), tmp_path / "checks.parquet"
    rows = [("bytes", "weights", 1.0), ("baseline_bytes", "float model", 4.0), ("mean_logprob_difference", "transformers", 0.5)]
    rows = [{"check": check, "subject": subject, "status": "passed", "value": value} for check, subject, value in rows]
    write_rows(checks, schemas.VERIFICATION, rows, {})
    quantize_model._print_end(out, Manifest.read(out / "manifest.json"), checks, "fake", "")
    said = capsys.readouterr().out
    assert ", 25 % of the float model's\n" in said
    assert "log p in transformers: 0.5 nats from the fake form's" in said


def test_an_output_may_be_a_link_but_not_what_holds_the_user_or_the_study(tmp_path, capsys, started, monkeypatch):
    (tmp_path / "link").symlink_to(checkpoint(tmp_path / "disk/old", stage="export"))
    new = made_by("rtn-w8a8", tmp_path / "new", made="now")
    monkeypatch.setattr(quantize_model, "workflow", lambda *_: 0)
    monkeypatch.setattr(quantize_model, "_print_end", lambda *_: None)
    monkeypatch.setattr(quantize_model.paths, "checkpoint", lambda *_: new / "manifest.json")
    assert quantize(DEMO, "--recipe", "rtn-w8a8", "--out", tmp_path / "link", "--work", tmp_path) == 0
    assert (tmp_path / "link").is_symlink()
    assert Manifest.read(tmp_path / "disk/old/manifest.json").origin["made"] == "now"
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    assert quantize(DEMO, "--recipe", "rtn-w8a8", "--out", ".") == 2
    assert "the current folder lies in it" in capsys.readouterr().err
    assert quantize(DEMO, "--recipe", "rtn-w8a8", "--out", "out", "--work", "out/work") == 2
    assert "--work lies in it" in capsys.readouterr().err


@pytest.mark.parametrize("option", [[], ["-n"]])
def test_the_configuration_of_a_study_of_the_users_own_is_kept(tmp_path, capsys, started, option):
    (tmp_path / "config.yaml").write_text("models: {}\n")
    assert quantize(DEMO, "--recipe", "rtn-w8a8", "--out", tmp_path / "out", "--work", tmp_path, *option) == 2
    assert "holds a study that `quantize-model` did not write" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_text() == "models: {}\n"


def test_the_configuration_of_a_run_that_is_active_is_kept(tmp_path, capsys, started):
    assert quantize(DEMO, "--recipe", "rtn-w8a8", "--out", tmp_path / "out") == 3
    before = (tmp_path / "out.work/config.yaml").read_text()
    with alone(tmp_path / "out.work"):
        assert quantize(DEMO, "--recipe", "rtn-w4a16", "--out", tmp_path / "out", "-n") == 2
    assert "another run of this study is active" in capsys.readouterr().err
    assert (tmp_path / "out.work/config.yaml").read_text() == before
    assert quantize(DEMO, "--recipe", "rtn-w4a16", "--out", tmp_path / "out") == 3
    assert (tmp_path / "out.work/config.yaml").read_text() != before


def test_data_of_the_hub_is_named_with_subset_and_split(monkeypatch, tmp_path):
    monkeypatch.setattr("ptqflow.commands.entries.first_row", lambda source: {"question": "?", "answer": "!"})
    revision = "0" * 40
    place, recipe = f"openai/gsm8k@{revision}:main:train", resolve({"preset": "gptq-w4a16"})
    entry = calibration_entry(place, recipe, {"samples": 4}, Located({"repo": "a/b"}, {"max_position_embeddings": 128}, "b"))
    assert entry["source"] == {"repo": "openai/gsm8k", "revision": revision, "subset": "main", "split": "train"}
    assert (entry["format"], entry["samples"], entry["sequence_length"]) == ("chat", 4, 128)
    base = Located({"path": str(tmp_path)}, {}, "base")  # without a chat template, prompt and answer are text
    assert calibration_entry(place, recipe, {}, base)["format"] == "plain"


def test_settings_are_nested_keys_with_values_of_yaml():
    assert settings(["a.b=3", "a.c=null", "d=[1, x]"]) == {"a": {"b": 3, "c": None}, "d": [1, "x"]}
    with pytest.raises(ConfigError, match=r"--set: calibration\.samples: YAML reads 0100 as another number"):
        settings(["calibration.samples=0100"])
    for within in ("a.b=2", "a.b.c=2", "a.b.c.d=2"):
        with pytest.raises(ConfigError, match="give key=value"):
            settings(["a=1", within])


def test_a_home_that_the_shell_left_is_found(tmp_path, monkeypatch, started):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("preset: rtn-w8a8\n")
    assert quantize(DEMO, "--recipe=~/mine.yaml", "--out=~/out", "--work=~/work") == 3
    assert started[0][0] == tmp_path / "work"


def test_a_recipe_may_be_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: rtn-w4a16\nscheme: {weights: {group_size: 64}}\n")
    entry, recipe = recipe_entry(str(file), {"scheme": {"weights": {"num_bits": 3}}})
    assert (recipe.scheme.weights.num_bits, recipe.scheme.weights.group_size) == (3, 64)
    assert entry["preset"] == "rtn-w4a16"


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("baseline", "", "recipes.baseline: this name is the unquantized model's"),
        ("mine", "calibration: traces\n", "recipes.mine.calibration: 'traces' is not defined"),
    ],
)
def test_a_file_that_is_no_recipe_of_a_study_is_refused_and_leaves_the_last_study(tmp_path, capsys, started, name, more, said):
    assert quantize(DEMO, "--recipe", "rtn-w8a8", "--out", tmp_path / "out") == 3
    before = (tmp_path / "out.work/config.yaml").read_text()
    (tmp_path / f"{name}.yaml").write_text(f"preset: rtn-w8a8\n{more}")
    assert quantize(DEMO, "--recipe", tmp_path / f"{name}.yaml", "--out", tmp_path / "out") == 2
    assert said in capsys.readouterr().err
    assert (tmp_path / "out.work/config.yaml").read_text() == before


def test_a_new_study_is_a_study_and_has_nothing_of_the_demos(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "my study"
    assert cli.main(["new", str(folder), "--model", str(DEMO), "--calibration", str(TRACES)]) == 0
    assert f"ptqflow run '{folder}'" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    study = study_of(folder)
    assert set(study.recipes) == {"rtn-w4a16", "awq-w4a16", "gptq-w4a16"}
    assert (set(study.models), study.tasks, study.suites) == ({"demo-model"}, {}, {})
    assert cli.main(["new", str(folder), "--model", str(DEMO)]) == 2
    assert "exists; edit it" in capsys.readouterr().err
    assert cli.main(["new", str(folder / "config.yaml"), "--model", str(DEMO)]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


def test_recipes_of_a_new_study_fit_its_model(tmp_path):
    (narrow := tmp_path / "narrow").mkdir()
    config = json.loads((DEMO / "config.json").read_text())
    (narrow / "config.json").write_text(json.dumps(config | {"intermediate_size": 800}))
    assert cli.main(["new", str(tmp_path / "mine"), "--model", str(narrow), "--recipes", "gptq-w4a16", "rtn-w8a8"]) == 0
    entries = yaml.safe_load((tmp_path / "mine/config.yaml").read_text())["recipes"]
    assert entries == {
        "gptq-w4a16": {"preset": "gptq-w4a16", "scheme": {"weights": {"group_size": 32}}},
        "rtn-w8a8": {"preset": "rtn-w8a8"},
    }


def test_check_says_why_snakemake_refuses():
    said = 'Building DAG\nWorkflowError in file "common.smk", line 27:\nrecipe a: 128 does not divide 576\n  File "common.smk"'
    assert _reason(said) == "recipe a: 128 does not divide 576"
    assert _reason("config.yaml: runn: no such key\nmore") == "config.yaml: runn: no such key"


def test_of_a_calibration_file_the_first_row_alone_is_read_and_one_without_rows_refused(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\nno row\n')
    (tmp_path / "empty.jsonl").touch()
    new = ["new", str(tmp_path / "mine"), "--model", str(DEMO), "--calibration"]
    assert cli.main([*new, str(tmp_path / "empty.jsonl")]) == 2
    assert "empty.jsonl holds no rows" in capsys.readouterr().err
    assert cli.main([*new, str(tmp_path / "rows.jsonl")]) == 0
    assert "format: plain" in (tmp_path / "mine/config.yaml").read_text()


def test_a_folder_of_calibration_files_is_read_where_set_says(tmp_path, started, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text('{"text": "a"}\n')
    told = [DEMO, "--recipe", "awq-w4a16", "--out", tmp_path / "out", "--calibration", tmp_path / "data", "--set"]
    assert quantize(*told, "calibration.source.split=train") == 3
    written = configfile.read(tmp_path / "out.work/config.yaml")["calibrations"]["calibration"]
    assert written["source"] == {"path": str(tmp_path / "data"), "split": "train"}
    assert written["format"] == "plain"
    assert quantize(*told, "calibration.source.splt=train") == 2
    assert "--set calibration.source: splt: unknown key; did you mean 'split'?" in capsys.readouterr().err


def test_check_refuses_a_wrong_study_in_its_own_words(tmp_path, capsys, monkeypatch):
    cli.main(["new", str(tmp_path / "mine"), "--model", str(DEMO)])
    file = tmp_path / "mine/config.yaml"
    file.write_text(file.read_text().replace("preset: rtn-w4a16", "preset: rtn-w4a17"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "mine"]) == 2
    assert "unknown preset 'rtn-w4a17'" in capsys.readouterr().err


def test_check_counts_the_jobs_that_are_left_and_what_they_cost(finished, capsys, monkeypatch):
    monkeypatch.chdir(finished.root)
    assert cli.main(["check", str(finished.root)]) == 0
    said = capsys.readouterr().out
    assert "1 model(s), 2 recipe(s), 1 task(s)" in said
    assert all(word in said for word in ("to run: ", "time: ", "memory: ", "disk: "))


def test_what_is_on_the_disk_already_needs_no_room_there(finished, monkeypatch):
    monkeypatch.chdir(finished.root)
    study = study_of(finished.root)
    free = estimate.disk(study, estimate.sizes(study)) - 1
    usage = shutil.disk_usage(finished.root)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert cli.main(["check"]) == 0


def test_what_is_estimated_is_the_study_on_the_platform_of_the_profile(tmp_path, monkeypatch):
    demo_study(tmp_path, monkeypatch)
    profiles = ("local", "gpu-local", "ascend")
    assert [study_of(tmp_path / "mine", profile).platform for profile in profiles] == ["cpu", "gpu", "ascend"]


def test_time_on_all_cores_is_told_for_jobs_of_this_machine_alone():
    assert [name for name in sorted(path.name for path in PROFILES.iterdir() if path.is_dir()) if computes_here(name)] == [
        "local"
    ]


def demo_study(tmp_path, monkeypatch, **calibration):
    """A study of three recipes on the demo model."""
    cli.main(["new", str(tmp_path / "mine"), "--model", str(DEMO)])
    monkeypatch.chdir(tmp_path)
    study = study_of(tmp_path / "mine")
    entry = study.calibrations["text"].model_copy(update=calibration)
    return study.model_copy(update={"calibrations": {"text": entry}})


def test_estimates_follow_the_work(tmp_path, monkeypatch):
    study = demo_study(tmp_path, monkeypatch, samples=64)
    models = estimate.sizes(study)
    assert abs(models["demo-model"].parameters / 3_444_992 - 1) < 0.01  # its card
    slow, fast = (sum(estimate.seconds(study, models, rate)["quantize"]) for rate in (1e9, 1e12))
    assert slow > 10 * fast
    twice = study.model_copy(update={"calibrations": {"text": study.calibrations["text"].model_copy(update={"samples": 128})}})
    assert estimate.memory(twice)[1] > estimate.memory(study)[1]
    assert estimate.disk(twice, models) > estimate.disk(study, models)


def test_a_rotation_costs_a_walk_and_a_model_of_its_own(tmp_path, monkeypatch):
    study = demo_study(tmp_path, monkeypatch)
    models = estimate.sizes(study)
    turned = resolve({"preset": "gptq-w4a16", "rotation": {"name": "hadamard"}})
    rotated = study.model_copy(update={"recipes": {**study.recipes, "gptq-w4a16": turned}})
    plain, more = (estimate.seconds(entry, models, 1e9) for entry in (study, rotated))
    assert (len(more["rotate"]), len(more["collect"])) == (1, len(plain["collect"]) + 1)
    assert estimate.disk(rotated, models) >= estimate.disk(study, models) + models["demo-model"].bytes


def test_a_text_without_a_limit_takes_the_time_of_its_characters_not_of_a_window_for_each_row(tmp_path, monkeypatch):
    """Its rows are joined into one text. A text on the hub is as long as WikiText-2's."""
    study, rate = demo_study(tmp_path, monkeypatch), 1e9
    (tmp_path / "text.jsonl").write_text(
        "\n".join(json.dumps({"id": str(i), "text": "a word of text, " * 25}) for i in range(200))
    )
    local, hub = {"path": str(tmp_path / "text.jsonl")}, {"repo": "org/text", "revision": "0" * 40}

    def seconds(**keys):
        tasks = {"t": task({"benchmark": "text", **keys})}
        asked = study.model_copy(update={"tasks": tasks, "suites": {"s": Suite(tasks=["t"])}})
        return estimate.seconds(asked, estimate.sizes(study), rate)["generate"][0] - estimate._SHARED

    token = 2 * estimate.sizes(study)["demo-model"].parameters / rate
    assert seconds(source=local) == pytest.approx(token * 200 * 400 / 4)
    assert seconds(source=local, limit=3, window=64) == pytest.approx(token * 3 * 64)
    assert seconds(source=[local, hub]) == pytest.approx(token * (200 * 400 / 4 + 300_000))


def test_a_study_of_models_alone_costs_what_fetching_does(tmp_path, monkeypatch):
    whole = demo_study(tmp_path, monkeypatch)
    study = whole.model_copy(update={"recipes": {}, "run": []})
    assert estimate.memory(study)[0] == "fetch of demo-model"
    fetched, with_card = (estimate.seconds(entry, estimate.sizes(whole), 1e9)["fetch"] for entry in (study, whole))
    assert (len(fetched), len(with_card)) == (1, 2), "card and licence travel with checkpoints alone"


# CPU seconds of `quantize` on one core that multiplies float32 matrices at 88 GFLOP/s (AMD Zen 3): the demo model's 3.1 M weights
# under 64 x 256 tokens, and 5.9 M of a random Qwen2 (hidden size 512) under 16 x 256.
MEASURED = [
    ("rtn-w4a16", {}, 3_145_728, 16384, 0.6),
    ("gptq-w4a16", {}, 3_145_728, 16384, 4.3),
    ("gptaq-w4a16", {}, 3_145_728, 16384, 7.8),
    ("gptq-w4a16", {"clip": {"name": "auto"}}, 3_145_728, 16384, 21.4),
    ("gptq-w4a16", {"clip": {"name": "auto", "by": "linear"}}, 3_145_728, 16384, 7.3),
    ("awq-w4a16", {}, 3_145_728, 16384, 3.8),
    ("awq-gptq-w4a16", {}, 3_145_728, 16384, 6.7),
    ("smoothquant-w8a8", {}, 3_145_728, 16384, 4.1),
    ("flatquant-w4a4kv4", {"transform": {"epochs": 1}}, 3_145_728, 16384, 16.4),
    ("rtn-w4a16", {}, 5_898_240, 4096, 1.0),
    ("gptq-w4a16", {}, 5_898_240, 4096, 3.1),
    ("gptaq-w4a16", {}, 5_898_240, 4096, 4.7),
    ("gptq-w4a16", {"clip": {"name": "auto"}}, 5_898_240, 4096, 23.0),
    ("awq-w4a16", {}, 5_898_240, 4096, 2.4),
    ("flatquant-w4a4kv4", {"transform": {"epochs": 1}}, 5_898_240, 4096, 7.6),
]


@pytest.mark.parametrize(("preset", "changes", "weights", "tokens", "measured"), MEASURED)
def test_seconds_of_quantizing_are_what_was_measured(preset, changes, weights, tokens, measured):
    estimated = estimate.quantizing(resolve({"preset": preset} | changes), weights, tokens) / 88e9
    assert 1 / 1.5 <= estimated / measured <= 1.5


def test_a_study_takes_all_cores_but_no_less_than_its_stages_in_turn():
    work, longest = {"quantize": 90.0, "generate": 30.0, "measure": 8.0}, {"quantize": 9.0, "generate": 5.0, "measure": 4.0}
    assert estimate.wall(work, longest, 1) == 128
    assert estimate.wall(work, longest, 2) == 8 + 60, "a timing has the machine to itself"
    assert estimate.wall(work, longest, 100) == 18


@pytest.mark.slow
def test_the_folder_that_comes_out_is_a_verified_checkpoint_and_a_second_run_does_nothing(tmp_path):
    command = [sys.executable, "-m", "ptqflow", "quantize-model", str(DEMO), "--recipe", "rtn-w4a16", "--out", "out"]
    env = environment() | {"PYTHONPATH": str(REPOSITORY / "workflow")}
    command += ["--set", "calibration.samples=4", "calibration.sequence_length=64", "--cores", "1"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    first = run()
    assert first.returncode == 0, first.stderr[-3000:]
    assert "[6/6] verify demo-model rtn-w4a16 compressed-tensors" in first.stderr
    assert f"python -m vllm.entrypoints.openai.api_server --model {tmp_path / 'out'}" in first.stdout  # on a CPU
    assert "none failed" in first.stdout
    Manifest.read(tmp_path / "out/manifest.json").verify(tmp_path / "out")
    second = run()
    assert second.returncode == 0, second.stderr[-3000:]
    assert "jobs to run" not in second.stderr


def test_a_model_is_named_after_its_folder():
    found = located(str(DEMO))
    assert (found.name, found.source) == ("demo-model", {"path": str(DEMO)})
