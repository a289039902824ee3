"""A configuration is data: what would run, repeat itself, unfold without end or read as another number is refused, by name."""

import os
import subprocess
import time

import pytest
import yaml
from checkout import REPOSITORY, Checkout, environment
from ptqflow import cli, configfile
from ptqflow.configfile import named_in
from ptqflow.errors import ConfigError

EVIL = "__use_yte__: true\n__definitions__:\n  - import os\n  - os.system('touch RAN')\n"
LAUGHS = "".join(
    f"{a}: &{a} [{', '.join([b] * 9)}]\n" for a, b in zip("abcdefghi", ["x", *(f"*{c}" for c in "abcdefgh")], strict=True)
)
REFUSED = {
    "code": (EVIL, "would run Python"),
    "code by merge": ("x: &a {__use_yte__: true}\n<<: *a\n", "would run Python"),
    "code in escapes": ('"\\x5f_use_yte__": true\n', "would run Python"),
    "code, switched off": ("__use_yte__: false\n", "would run Python"),
    "twice": ("models: {}\nruns: {}\nmodels: {}\n", r"models is there twice \(lines 1 and 3\)"),
    "aliases of aliases": (LAUGHS, "unfold to"),
    "recursive list": ("x: &a [*a]\n", "x contains itself"),
    "recursive mapping": ("x: &a {y: {z: *a}}\n", "contains itself"),
    "the whole file": ("&a\nx: *a\n", "contains itself"),
    "deep": ("x: " + "[" * 100_000 + "]" * 100_000, "nested more than 100 levels"),
    "deep blocks": ("- " * 50_000 + "x", "nested more than 100 levels"),
    "large": ("x: 1\n" * 200_001, "more than any study needs"),
    "list as a key": ("? [a, b]\n: 1\n", "a key is a name"),
    "octal": ("samples: 0100\n", "YAML reads 0100 as another number"),
    "base 60": ("samples: 1:30\n", "YAML reads 1:30 as another number"),
    "syntax": ("models: [\n", "is not YAML"),
    "tab": ("models:\n\tdemo: 1\n", "is not YAML"),
    "control character": ("models: \x00\n", "is not YAML"),
    "unknown alias": ("x: *nowhere\n", "is not YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "is not YAML"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_data_is_refused_at_once(tmp_path, name):
    text, message = REFUSED[name]
    (tmp_path / "c.yaml").write_text(text)
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=message) as error:
        configfile.check(tmp_path / "c.yaml")
    assert str(tmp_path / "c.yaml") in str(error.value)
    assert time.perf_counter() - start < 5


def test_bytes_that_are_no_text_and_missing_files_are_refused(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00models")
    for path, message in (
        (tmp_path / "c.yaml", "is not YAML"),
        (tmp_path / "no.yaml", "cannot be read"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            configfile.check(path)


def test_ordinary_files_are_taken(tmp_path):
    assert configfile.read(REPOSITORY / "config.yaml") == yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    (tmp_path / "c.yaml").write_text("a: &x {b: 10, c: 0, d: 0.5, e: -1, f: 1.5e-3}\ng: *x\nh: {<<: *x, b: 2}\n")
    assert configfile.read(tmp_path / "c.yaml")["h"]["b"] == 2
    (tmp_path / "c.yaml").write_text("")
    assert configfile.read(tmp_path / "c.yaml") == {}


def test_a_dry_run_of_a_configuration_that_holds_code_runs_none_of_it(tmp_path):
    root = Checkout.create(tmp_path / "clone").root
    (root / "config.yaml").write_text(EVIL + (root / "config.yaml").read_text())
    done = subprocess.run(
        ["snakemake", "--cores", "1", "-n"], cwd=root, env=environment(), capture_output=True, text=True, check=False
    )
    assert not (root / "RAN").exists()
    assert done.returncode == 1
    assert "would run Python" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "option", ["--configfile other.yaml", "--configfiles=other.yaml", "-n --configfile config.yaml other.yaml"]
)
def test_a_file_that_snakemake_would_read_first_is_looked_into_before(tmp_path, option):
    root = Checkout.create(tmp_path / "clone").root
    (root / "other.yaml").write_text(EVIL)
    command = ["workflow/run-study", "--profile", "local", *option.split()]
    done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, check=False)
    assert not (root / "RAN").exists()
    assert done.returncode == 2
    assert done.stderr.strip().startswith("ptqflow run: other.yaml: __use_yte__")
    assert "would run Python" in done.stderr


# ---- the recipe that results


@pytest.fixture
def show(tmp_path, capsys):
    def run(name, text=""):
        (tmp_path / "config.yaml").write_text(text)
        status = cli.main(["explain", name, "--config", os.fspath(tmp_path / "config.yaml")])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_a_changed_preset_is_shown_whole_and_with_its_changes(show):
    text = "recipes: {mine: {preset: rtn-w4a16, scheme: {weights: {group_size: 64}}}}\n"
    status, out, _ = show("mine", text)
    assert status == 0
    weights = yaml.safe_load(out)["mine"]["scheme"]["weights"]
    assert weights["num_bits"], weights["symmetric"] == (4, False)
    assert out.splitlines()[-1] == "# preset rtn-w4a16, changed: scheme.weights.group_size: 64 instead of 128"
    assert show("again", f"recipes: {{again: {yaml.safe_load(out)['mine']}}}".replace("None", "null"))[1] == out.replace(
        "mine:", "again:"
    ).replace(out.splitlines()[-1] + "\n", "")


def test_presets_are_shown_without_a_configuration_and_unknown_names_are_refused(show, capsys, tmp_path):
    status, out, _ = show("flatquant-w4a4kv4")
    assert (status, out.splitlines()[-1]) == (0, "# preset flatquant-w4a4kv4, unchanged")
    assert cli.main(["explain", "rtn-w8a8", "--config", os.fspath(tmp_path / "nowhere.yaml")]) == 0
    assert show("nothing")[0] == 2
    status, _, error = show("mine", "recipes: {mine: {preset: rtn-w4a16, scheme: {weights: {group: 64}}}}\n")
    assert status == 2
    assert "recipes.mine: scheme.weights.group: unknown key; did you mean 'group_size'?" in error


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--config", "run=all"], []),
        (["-n", "--cores", "2", "--config", "run=all", "--configfile", "a.yaml", "b.yaml", "--quiet"], ["a.yaml", "b.yaml"]),
        (["--configfiles=a.yaml"], ["a.yaml"]),
    ],
)
def test_files_are_told_from_other_options_of_snakemakes(options, named):
    assert named_in(options) == named
