"""One module knows where results lie: rules, jobs and stages name no path themselves."""

import inspect
import re
import shutil

import pytest
from checkout import REPOSITORY
from ptqflow import paths
from ptqflow.errors import ConfigError
from ptqflow.jobs import fingerprint

FUNCTIONS = [
    paths.model,
    paths.tokens,
    paths.calibration,
    paths.checkpoint,
    paths.verification,
    paths.generations,
    paths.scores,
    paths.latency,
    paths.figure,
    paths.figure_for_print,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_pattern_filled_in_is_the_path(function):
    """Rules match files by the pattern that jobs ask for by value."""
    names = list(inspect.signature(function).parameters)
    values = {name: "r.f" if name == "variant" else f"a-{name}" for name in names}
    wildcards = {"model": "a-name", "recipe": "r", "form": "f"} | values
    assert function().format(**wildcards) == function(**values)


def test_a_variants_checkpoint_is_the_models_or_the_recipes():
    assert paths.checkpoint("cpu", "m", "baseline") == paths.model("m")
    assert paths.checkpoint("cpu", "m", "r.fake") == "results/cpu/checkpoints/m/r/fake/manifest.json"


def test_files_of_different_runs_never_share_a_path():
    who = ("cpu", "m", "baseline", "engine", "task", 0)
    others = [(*who[:i], "r.f" if i == 2 else f"other-{i}", *who[i + 1 :]) for i in range(len(who))]
    for function in (paths.generations, paths.scores):
        assert len({function(*each) for each in [who, *others]}) == 1 + len(who)


def test_no_other_module_names_a_result():
    written = re.compile(r"""f?["']results/""")
    files = [
        *(REPOSITORY / "workflow").rglob("*.smk"),
        *(REPOSITORY / "workflow/ptqflow").rglob("*.py"),
        REPOSITORY / "Snakefile",
    ]
    assert [str(file) for file in files if file.name != "paths.py" and written.search(file.read_text())] == []


def test_an_older_layout_of_another_platform_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/gpu/evaluation").mkdir(parents=True)
    paths.refuse_older("gpu")  # its own results are made anew
    with pytest.raises(ConfigError, match=r"results/gpu/evaluation holds .* an older version.*run the study on gpu again"):
        paths.refuse_older("cpu")


def test_what_a_user_writes_is_no_wildcard():
    """A folder may be called `{x}`: Snakemake takes braces in a parameter for wildcards, but not in what a function returns."""
    rules = "\n".join(path.read_text() for path in (REPOSITORY / "workflow/rules").glob("*.smk"))
    parameters = "".join(re.findall(r"^    params:\n((?:        .*\n)+)", rules, re.MULTILINE))
    told = re.findall(r"^        (?:settings|files|source|code)=(.*)$", parameters, re.MULTILINE)
    assert len(told) > 20
    assert {said for said in told if not said.startswith("lambda w")} <= {"jobs.selftest(),", *re.findall(r"code\(.*\),", rules)}


def test_published_numbers_are_the_repositorys_wherever_a_study_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = sorted(str(path) for path in (REPOSITORY / "resources/reference").glob("*.csv"))
    assert paths.reference() == there != []


def test_published_numbers_that_move_with_the_code_change_no_fingerprint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = fingerprint((), with_the_code=paths.reference())
    shutil.copytree(paths.REFERENCE, tmp_path / "moved")
    monkeypatch.setattr(paths, "REFERENCE", tmp_path / "moved")
    assert str(tmp_path) in paths.reference()[0]
    assert fingerprint((), with_the_code=paths.reference()) == before
    (tmp_path / "moved/vendor.csv").write_text("another")
    assert fingerprint((), with_the_code=paths.reference()) != before
