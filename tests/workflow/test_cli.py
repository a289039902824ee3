"""The command line: help is fast, every refusal is one sentence, and the exit status says who must act."""

import argparse
import errno
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
from interrupt import environment
from ptqflow import cli
from ptqflow.datamodel import Model
from ptqflow.digest import code_digest
from ptqflow.errors import ArtifactError, ConfigError

PACKAGE = Path(cli.__file__).parent


class Settings(Model):
    samples: int
    seed: int = 0


def stage(run) -> SimpleNamespace:
    """A stage module with `run`."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--output")

    return SimpleNamespace(Settings=Settings, add_arguments=add_arguments, run=run)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `ptqflow plot` with a stage of the test's; returns exit status and standard error."""

    def run(action=lambda settings, args: None, settings='{"samples": 1}', *more: str) -> tuple[int, str]:
        monkeypatch.setattr(cli, "import_module", lambda name: stage(action))
        status = cli.main(["plot", "--settings", settings, *more])
        return status, capsys.readouterr().err

    return run


def raising(error: BaseException):
    def run(settings, args):
        raise error

    return run


def test_top_level_help_names_every_stage_and_loads_no_framework():
    code = (
        "import sys, ptqflow.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'numpy', 'huggingface_hub'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in cli.STAGES)


@pytest.mark.parametrize("name", ["fetch", "tokens"])
def test_planning_a_study_imports_these_stages_without_a_framework(name):
    code = (
        f"import sys, ptqflow.stages.{name}\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", cli.STAGES)
def test_help_of_every_stage_lists_its_settings_and_paths(name, capsys):
    if not (PACKAGE / "stages" / f"{name}.py").exists():
        pytest.skip(f"stage {name} is not in this checkout")
    with pytest.raises(SystemExit) as exit_:
        cli.main([name, "--help"])
    assert exit_.value.code == 0
    output = capsys.readouterr().out
    assert "--settings" in output
    assert "--code" in output


@pytest.mark.parametrize("name", ["fetch", "rotate", "collect", "export"])
def test_a_manifest_is_written_where_it_is_asked_for_or_not_at_all(name, capsys):
    assert cli.main([name, "--output", "model.json"]) == 2
    assert capsys.readouterr().err == f"ptqflow {name}: --output model.json: the file must be called manifest.json\n"


@pytest.mark.parametrize("name", ["chunks", "peers", "stages"])
def test_benchmarks_have_help(name):
    script = Path(__file__).resolve().parents[2] / f"benchmarks/{name}.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, env=environment())
    assert (done.returncode, "--output" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"sample": 1}', "sample: unknown key; did you mean 'samples'?"),
        ('{"samples": "many"}', "samples: Input should be a valid integer"),
        ("{}", "samples: this key is required"),
        ("[]", "--settings: keys with values belong here"),
        ("{", "--settings is not JSON"),
        ("@nowhere.json", "--settings is not JSON and no readable @file"),
    ],
)
def test_bad_settings_are_one_sentence_that_names_the_key(call, settings, message):
    status, error = call(settings=settings)
    assert status == 2
    assert message in error
    assert error.count("\n") == 1


def test_settings_can_come_from_a_file(call, tmp_path):
    (tmp_path / "s.json").write_text('{"samples": 3}')
    seen = []
    status, _ = call(lambda settings, args: seen.append(settings.samples), f"@{tmp_path / 's.json'}")
    assert (status, seen) == (0, [3])


def test_bad_input_is_status_2_without_a_traceback(call):
    for error in (ConfigError("key x is wrong; use y"), ArtifactError("file x is gone; run z")):
        assert call(raising(error)) == (2, f"ptqflow plot: {error}\n")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), ["No space left", "/data/x", "free space"]),
        (OSError(errno.EACCES, "Permission denied", "/data/x"), ["Permission denied", "/data/x", "writable"]),
        (OSError(errno.EIO, "Input/output error"), ["Input/output error", "remove the cause"]),
        (OSError("Couldn't deserialize thrift"), ["Couldn't deserialize thrift"]),
        (OSError(errno.ENOSPC, "Error writing bytes. Detail: [errno 28]"), ["No space left on device", "Error writing bytes"]),
    ],
)
def test_what_the_system_refuses_is_status_1_in_one_sentence(call, error, words):
    status, text = call(raising(error))
    assert status == 1
    assert text.count("\n") == 1
    assert all(word in text for word in words)


def test_a_damaged_safetensors_file_is_bad_input(call, tmp_path):
    from safetensors.numpy import load_file

    (tmp_path / "x.safetensors").write_bytes(b"\0" * 100)
    status, error = call(lambda settings, args: load_file(tmp_path / "x.safetensors"))
    assert status == 2
    assert "safetensors file is damaged" in error


def test_a_bug_keeps_its_traceback(call):
    with pytest.raises(ZeroDivisionError):
        call(lambda settings, args: 1 / 0)


def test_code_that_changed_since_planning_is_refused(call):
    planned = code_digest("ptqflow.progress")
    assert call(lambda s, a: None, '{"samples": 1}', "--code", planned)[0] == 0
    status, error = call(lambda s, a: None, '{"samples": 1}', "--code", planned[:-1] + "x")
    assert status == 2
    assert "the code changed" in error
    status, error = call(lambda s, a: None, '{"samples": 1}', "--code", "no.such:0123")
    assert status == 2
    assert "no module" in error


def test_status_reaches_the_shell(tmp_path):
    command = [sys.executable, "-m", "ptqflow", "fetch", "--settings", json.dumps({"path": "nowhere"}), "--output"]
    done = subprocess.run([*command, "m/manifest.json"], cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert done.stderr.startswith("ptqflow fetch: model path nowhere is not a folder")


def test_code_that_is_mounted_and_not_installed_runs(monkeypatch, capsys):
    """As in a container, which has the packages alone."""

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cli, "version", missing)
    with pytest.raises(SystemExit) as done:
        cli.main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == "ptqflow (not installed)\n"
