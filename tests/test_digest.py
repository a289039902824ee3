"""The digest of reachable code changes when, and only when, code that a job can reach changes."""

from pathlib import Path

import pytest
from ptqflow.digest import closure, code_digest
from ptqflow.evaluation.benchmark import known_benchmarks
from ptqflow.evaluation.tasks import generating, scoring, task

PACKAGE = {
    "__init__.py": "",
    "stages/__init__.py": "",
    "stages/quantize.py": "from ptqflow.methods import rounding\n\ndef run():\n    return rounding.go()\n",
    "stages/plot.py": "import math\n\nX = 1\n",
    "methods/__init__.py": "",
    "methods/rounding.py": "from .helpers import grid as g\n\ndef go():\n    from ptqflow.lazy import late\n    return g, late\n",
    "methods/gptq.py": "from . import rounding\n",
    "methods/helpers/__init__.py": "",
    "methods/helpers/grid.py": "STEPS = 16\n",
    "methods/both.py": (
        "from ptqflow.methods import helpers\nfrom .helpers.grid import STEPS, OTHER\nfrom ptqflow import lazy as l\n\n"
        "PROMPT = 1\n\ndef ask():\n    return STEPS + PROMPT\n\ndef judge():\n    return l.late()\n"
    ),
    "lazy.py": "from ptqflow.methods.helpers.grid import STEPS\n\ndef late():\n    return 2\n",
}


@pytest.fixture
def root(tmp_path) -> Path:
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def digests(root: Path) -> dict[str, str]:
    return {
        name: code_digest(f"ptqflow.{name}", root=root) for name in ("stages.quantize", "stages.plot", "methods.gptq", "lazy")
    }


def changed(root: Path, file: str, text: str) -> set[str]:
    """Names of the modules whose digest differs after `file` holds `text`."""
    before = digests(root)
    (root / file).write_text(text)
    after = digests(root)
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    "text",
    [
        "STEPS = 16  # a comment\n",
        '"""A docstring."""\n\nSTEPS    =   16\n',
        "# only\n\n\nSTEPS = (\n    16\n)\n",
        "STEPS = 0x10\n",
    ],
)
def test_comments_docstrings_and_formatting_change_nothing(root, text):
    assert changed(root, "methods/helpers/grid.py", text) == set()


@pytest.mark.parametrize(
    "text", ["STEPS = 17\n", "STEPS = 16.0\n", "STEPS = '16'\n", "STEPS = 16\nMORE = None\n", "STEPS = 16\nprint(STEPS)\n"]
)
def test_code_in_a_relatively_imported_helper_changes_all_that_reach_it(root, text):
    assert changed(root, "methods/helpers/grid.py", text) == {"stages.quantize", "methods.gptq", "lazy"}


def test_code_in_a_lazily_imported_module_counts(root):
    assert changed(root, "lazy.py", PACKAGE["lazy.py"].replace("2", "3")) == {"stages.quantize", "methods.gptq", "lazy"}


def test_only_importers_are_affected(root):
    assert changed(root, "methods/gptq.py", "from . import rounding\n\nDAMPING = 0.01\n") == {"methods.gptq"}
    assert changed(root, "stages/plot.py", "X = 2\n") == {"stages.plot"}


def test_code_in_a_parent_package_counts(root):
    """Importing a.b.c runs a and a.b."""
    assert changed(root, "methods/__init__.py", "FLAG = True\n") == {"stages.quantize", "methods.gptq", "lazy"}
    assert changed(root, "__init__.py", "FLAG = True\n") == {"stages.quantize", "stages.plot", "methods.gptq", "lazy"}


def both(root: Path, text: str) -> set[str]:
    """Which of the two functions of methods/both.py have another digest after the file holds `text`."""
    names = ("ask", "judge")
    before = [code_digest(f"ptqflow.methods.both:{name}", root=root) for name in names]
    (root / "methods/both.py").write_text(text)
    after = [code_digest(f"ptqflow.methods.both:{name}", root=root) for name in names]
    (root / "methods/both.py").write_text(PACKAGE["methods/both.py"])
    return {name for name, a, b in zip(names, before, after, strict=True) if a != b}


def test_of_one_name_only_what_it_reaches_counts(root):
    text = PACKAGE["methods/both.py"]
    assert both(root, text.replace("l.late()", "l.late() + 1")) == {"judge"}
    assert both(root, text.replace("STEPS + PROMPT", "STEPS - PROMPT")) == {"ask"}
    assert both(root, text.replace("PROMPT = 1", "PROMPT = 2")) == {"ask"}
    assert both(root, text.replace("OTHER", "MORE")) == set()  # neither uses it
    assert both(root, text + "print()\n") == {"ask", "judge"}  # what binds no name runs for both


def test_of_one_name_only_its_imports_are_followed(root):
    ask, judge = (closure(f"ptqflow.methods.both:{name}", root=root) for name in ("ask", "judge"))
    assert "ptqflow.lazy" in judge
    assert "ptqflow.lazy" not in ask
    assert "ptqflow.methods.helpers.grid" in ask
    with pytest.raises(ModuleNotFoundError, match="no nothing in"):
        closure("ptqflow.methods.both:nothing", root=root)


def test_a_new_import_extends_the_closure(root):
    assert "ptqflow.methods.gptq" not in closure("ptqflow.stages.plot", root=root)
    (root / "stages/plot.py").write_text("from ptqflow.methods.gptq import rounding\n")
    assert "ptqflow.methods.helpers.grid" in closure("ptqflow.stages.plot", root=root)


def test_the_order_of_modules_does_not_matter(root):
    first = code_digest("ptqflow.lazy", "ptqflow.methods.gptq", root=root)
    assert first == code_digest("ptqflow.methods.gptq", "ptqflow.lazy", "ptqflow.lazy", root=root)
    assert first.startswith("lazy+methods.gptq:")


def test_an_unknown_module_is_an_error(root):
    with pytest.raises(ModuleNotFoundError, match=r"ptqflow\.methods\.magic"):
        code_digest("ptqflow.methods.magic", root=root)


def test_the_real_fetch_stage_reaches_no_method():
    names = closure("ptqflow.stages.fetch")
    assert {"ptqflow.artifacts.hub", "ptqflow.artifacts.models", "ptqflow.artifacts.atomic"} <= set(names)
    assert not any(name.startswith(("ptqflow.methods", "ptqflow.evaluation", "ptqflow.modeling")) for name in names)


@pytest.mark.parametrize("stage", ["fetch", "tokens", "measure", "score", "aggregate", "plot"])
def test_what_reads_no_recipe_does_not_rerun_for_the_code_of_recipes(stage):
    assert "ptqflow.recipes" not in closure(f"ptqflow.stages.{stage}")


def test_generating_reaches_no_scorer_and_scoring_no_engine():
    for name in known_benchmarks():
        entry = task({"benchmark": name, "source": {"path": "x"}})
        asks = closure("ptqflow.stages.generate", *(f"ptqflow.{module}" for module in generating(entry)))
        judges = closure("ptqflow.stages.score", *(f"ptqflow.{module}" for module in scoring(entry)))
        assert not [module for module in asks if "scoring" in module or "answers" in module or module.endswith(".tasks")]
        assert not [module for module in judges if "requests" in module or "engines" in module or "modeling" in module]
        assert f"ptqflow.evaluation.scoring.{entry.definition.kind}" in judges
        assert f"ptqflow.evaluation.requests.{entry.definition.kind}" in asks
