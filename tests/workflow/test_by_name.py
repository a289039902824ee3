"""A method is its own files: found by name, light to read, and nothing to the jobs of other recipes."""

import json
import shutil
import subprocess
import sys

import pytest
from checkout import REPOSITORY, SMALL_STUDY
from ptqflow import by_name
from ptqflow.presets import PRESETS

KINDS = ("rotation", "transform", "clip", "rounding")
METHODS = [(kind, name) for kind in KINDS for name in by_name.names(kind)]
ADDED = [("rounding", "hqq"), ("rotation", "hadamard")]

# Settings and digests of all jobs of a recipe, in a copy of the package.
PARAMS = """
import json, sys
from ptqflow.jobs import Jobs, code
from ptqflow.checked import load
jobs = Jobs(load(json.loads(sys.argv[1])))
(study,) = [jobs.study]
print("torch" in sys.modules)
for stage in ("fetch", "tokens", "collect", "aggregate", "plot"):
    print(code(stage))
for recipe in study.recipes:
    print(recipe, jobs.quantize("tiny", recipe, 0), jobs.quantize_code("tiny", recipe), study.source_of("tiny", recipe))
    for form in ("fake", "compressed-tensors"):
        print(jobs.export(recipe, form), jobs.export_code("tiny", recipe, form))
        print(jobs.verify(recipe, form), jobs.verify_code("tiny", recipe, form))
    for timing in study.latency:
        print(jobs.measure_code("tiny", timing, f"{recipe}.fake"), jobs.measure_code("tiny", timing, "baseline"))
    for suite in study.suites.values():
        for task in suite.tasks:
            asked = "tiny", suite.engine, task
            print(jobs.generate_code(*asked, f"{recipe}.fake"), jobs.generate_code(*asked, "baseline"))
"""


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_settings_say_their_own_name(kind, name):
    found = by_name.settings_class(kind, name)(name=name)
    assert found.name == name
    assert by_name.settings_class(kind, name).__doc__


def test_a_new_method_changes_no_job_of_other_recipes(tmp_path):
    (model,) = SMALL_STUDY["models"]
    mine = {name for name in PRESETS if name.startswith(("hqq-", "rotate-"))}
    mine = {*mine, "vendor-w4a4"}  # names layers that the demo model has not
    recipes = {name: {"preset": name} for name in PRESETS if name not in mine}
    study = json.dumps({**SMALL_STUDY, "recipes": recipes, "run": [], "forms": ["fake"]})

    def params() -> str:
        script = PARAMS.replace('"tiny"', repr(model))
        paths = {"PYTHONPATH": str(tmp_path / "workflow"), "PATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", script, study], cwd=REPOSITORY, env=paths, capture_output=True, text=True, check=True
        )
        return done.stdout

    shutil.copytree(REPOSITORY / "workflow/ptqflow", tmp_path / "workflow/ptqflow", ignore=shutil.ignore_patterns("__pycache__"))
    before = params()
    assert before.startswith("False\n")  # no torch where the study is planned
    assert len(before.splitlines()) > len(recipes)
    for kind, name in ADDED:
        for file in (tmp_path / f"workflow/ptqflow/methods/{kind}s").glob(f"{name}*.py"):
            file.unlink()
    assert params() == before


@pytest.mark.parametrize(("kind", "name"), ADDED)
def test_no_file_but_its_own_and_the_presets_names_a_method(kind, name):
    named = [
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("workflow/ptqflow", "workflow/rules")
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in (".py", ".smk") and f'"{name}"' in path.read_text()
    ]
    assert sorted(named) == [f"workflow/ptqflow/methods/{kind}s/{name}_settings.py", "workflow/ptqflow/presets.py"]
