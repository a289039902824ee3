"""The digest of reachable code changes when, and only when, code that a job can reach changes."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ptqflow.digest import ROOT, closure, code_digest
from ptqflow.evaluation.benchmark import known_benchmarks
from ptqflow.evaluation.tasks import generating, scoring, task

PACKAGE = {
    "__init__.py": "",
    "stages/__init__.py": "",
    "stages/quantize.py": "from ptqflow.methods import rounding\n\ndef run():\n    return rounding.go()\n",
    "stages/plot.py": "import math\n\nX = 1\n",
    "methods/__init__.py": "",
    "methods/rounding.py": (
        "from .helpers import grid as g\n\ndef go():\n    from ptqflow.lazy import late\n    return g.STEPS, late\n"
    ),
    "methods/gptq.py": "from . import rounding\n\ndef run():\n    return rounding.go()\n",
    "methods/helpers/__init__.py": "",
    "methods/helpers/grid.py": "STEPS = 16\n",
    "methods/both.py": (
        "from ptqflow.methods import helpers\nfrom .helpers.grid import STEPS, OTHER\nfrom ptqflow import lazy as l\n\n"
        "PROMPT = 1\n\ndef ask():\n    return STEPS + PROMPT\n\ndef judge():\n    return l.late()\n"
    ),
    "lazy.py": "from ptqflow.methods.helpers.grid import STEPS\n\ndef late():\n    return STEPS + 2\n",
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
        "STEPS = 16\nMORE = None\n",
        "STEPS = 16\n\ndef unused():\n    return STEPS\n",
        "import math\n\nSTEPS = 16\nCOLUMN = math.pi\n",
    ],
)
def test_comments_docstrings_formatting_and_what_nobody_uses_change_nothing(root, text):
    assert changed(root, "methods/helpers/grid.py", text) == set()


@pytest.mark.parametrize(
    "text",
    [
        "STEPS = 17\n",
        "STEPS = 16.0\n",
        "STEPS = '16'\n",
        "STEPS = 16\nprint(STEPS)\n",
        "STEPS = 16\nSTEPS += 1\n",
        "STEPS = 16\nif True:\n    STEPS = 17\n",
        "WIDTH = 16\nSTEPS = WIDTH\n",
        "from ptqflow.lazy import late as STEPS\n",
    ],
)
def test_code_in_a_relatively_imported_helper_changes_all_that_reach_it(root, text):
    assert changed(root, "methods/helpers/grid.py", text) == {"stages.quantize", "methods.gptq", "lazy"}


def test_code_in_a_lazily_imported_module_counts(root):
    assert changed(root, "lazy.py", PACKAGE["lazy.py"].replace("2", "3")) == {"stages.quantize", "methods.gptq", "lazy"}


def test_only_importers_are_affected(root):
    assert changed(root, "methods/gptq.py", PACKAGE["methods/gptq.py"] + "DAMPING = 0.01\n") == {"methods.gptq"}
    assert changed(root, "stages/plot.py", "X = 2\n") == {"stages.plot"}


def test_code_in_a_parent_package_counts(root):
    """Importing a.b.c runs a and a.b."""
    assert changed(root, "methods/__init__.py", "print(1)\n") == {"stages.quantize", "methods.gptq", "lazy"}
    assert changed(root, "__init__.py", "print(1)\n") == {"stages.quantize", "stages.plot", "methods.gptq", "lazy"}


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


def test_an_unknown_name_is_an_error(root):
    with pytest.raises(ModuleNotFoundError, match="no nothing in"):
        closure("ptqflow.methods.both:nothing", root=root)


def test_a_new_import_extends_the_closure(root):
    assert "ptqflow.methods.gptq" not in closure("ptqflow.stages.plot", root=root)
    (root / "stages/plot.py").write_text("from ptqflow.methods.gptq import rounding\n\nROUND = rounding.go\n")
    assert "ptqflow.methods.helpers.grid" in closure("ptqflow.stages.plot", root=root)


def test_a_module_imported_for_its_effects_counts_whole(root):
    (root / "effects.py").write_text("def register():\n    return 1\n")
    (root / "stages/plot.py").write_text("from ptqflow import effects\n\nX = 1\n")
    assert changed(root, "effects.py", "def register():\n    return 2\n") == {"stages.plot"}


USERS = {
    "a constant": ("X = {}\n", "X", "Y = 2\n"),
    "a function": ("def X():\n    return {}\n", "X()", "def Y():\n    return 1\n"),
    "a class": ("class X:\n    size = {}\n", "X", "class Y(X):\n    pass\n"),
    "one of two targets": ("X, Z = {}, 3\n", "X", "Y = 2\n"),
    "an annotated constant": ("X: int = {}\n", "X", "Y: int = 2\n"),
}
WAYS = {
    "from": ("from ptqflow.library import X", "{}"),
    "renamed": ("from ptqflow.library import X as Q", "{}".replace("X", "Q")),
    "module": ("from ptqflow import library", "library.{}"),
    "module renamed": ("from ptqflow import library as lib", "lib.{}"),
    "dotted": ("import ptqflow.library", "ptqflow.library.{}"),
    "dotted and renamed": ("import ptqflow.library as lib", "lib.{}"),
    "passed on": ("from ptqflow.between import X", "{}"),
    "within a function": ("", "__import__('sys') and use()\n\ndef use():\n    from ptqflow.library import X\n    return {}"),
    "a string": ("from ptqflow.library import X", "'X'"),
}


@pytest.mark.parametrize("kind", USERS)
@pytest.mark.parametrize("way", WAYS)
def test_a_definition_counts_however_it_is_reached_and_its_neighbours_do_not(root, kind, way):
    text, use, neighbour = USERS[kind]
    line, expression = WAYS[way]
    expression = expression.format(use.replace("X", "Q") if way == "renamed" else use)
    (root / "between.py").write_text("from ptqflow.library import X\n")
    (root / "library.py").write_text(text.format(1))
    (root / "stages/plot.py").write_text(f"{line}\n\nRESULT = {expression}\n")
    assert changed(root, "library.py", text.format(2)) == {"stages.plot"}
    whole = way.startswith("dotted")  # `import a.b` says nothing of what is used
    assert changed(root, "library.py", text.format(2) + neighbour) == ({"stages.plot"} if whole else set())


@pytest.mark.parametrize(
    ("before", "after", "neutral"),
    [
        ("raise ValueError('a')", "raise ValueError('b')", True),
        ("raise ValueError(f'a {x} b')", "raise ValueError(f'c {x} d' 'e')", True),
        ("raise ValueError(f'a {x}')", "raise ValueError(f'a {x + 1}')", False),
        ("raise ValueError('a')", "raise TypeError('a')", False),
        ("print('a')", "print('b')", True),
        ("log.warning('a %s', x)", "log.warning('b %s', x)", True),
        ("progress('a', 3, 'b')", "progress('c', 3, 'd')", True),
        ("progress('a', 3, 'b')", "progress('a', 4, 'b')", False),
        ("add('--x', default='a', help='b')", "add('--x', default='a', help='c')", True),
        ("add('--x', default='a')", "add('--x', default='b')", False),
        ("return 'a'", "return 'b'", False),
        ("axis(x, title='seconds')", "axis(x, title='minutes')", False),
        ("import numpy as np\n    return np.e", "import torch as np\n    return np.e", False),
    ],
)
def test_texts_for_people_are_neutral_and_what_runs_is_not(root, before, after, neutral):
    (root / "stages/plot.py").write_text(f"def run(x):\n    {before}\n")
    assert changed(root, "stages/plot.py", f"def run(x):\n    {after}\n") == (set() if neutral else {"stages.plot"})


def test_a_column_of_a_table_changes_only_those_that_name_the_table():
    source = (ROOT / "artifacts/schemas.py").read_text()
    assert source.count('LATENCY = versioned(\n    "latency",\n    2,\n    [\n') == 1
    with_column = source.replace(
        'LATENCY = versioned(\n    "latency",\n    2,\n    [\n',
        "LATENCY = pa.schema(\n    [\n        column('more', f64, 'm'),\n",
    )
    assert stages_changed_by("artifacts/schemas.py", with_column) == {"measure", "aggregate"}


def stages_changed_by(file: str, text: str) -> set[str]:
    """The stages whose digest differs in a copy of the package with one file changed."""
    stages = [path.stem for path in (ROOT / "stages").glob("[a-z]*.py")]
    with TemporaryDirectory() as folder:
        copy = shutil.copytree(ROOT, Path(folder) / "ptqflow", ignore=shutil.ignore_patterns("__pycache__"))
        (copy / file).write_text(text)
        return {
            name for name in stages if code_digest(f"ptqflow.stages.{name}") != code_digest(f"ptqflow.stages.{name}", root=copy)
        }


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
    assert not any(name.startswith(("ptqflow.methods", "ptqflow.evaluation")) for name in names)
    asked = {"anatomy", "dimensions", "tensors"}  # which tensors a config.json asks for
    assert {name for name in names if name.startswith("ptqflow.modeling.")} == {f"ptqflow.modeling.{name}" for name in asked}


@pytest.mark.parametrize("stage", ["fetch", "tokens", "measure", "score", "plot"])
def test_what_reads_no_recipe_does_not_rerun_for_the_code_of_recipes(stage):
    assert "ptqflow.recipes" not in closure(f"ptqflow.stages.{stage}")


@pytest.mark.parametrize("name", known_benchmarks())
def test_what_scores_changes_no_generation_and_what_asks_no_score(name: str, tmp_path: Path):
    entry = task({"benchmark": name, "source": {"path": "x"}})
    kind, file = entry.definition.kind, f"evaluation/benchmarks/{name.replace('-', '_')}.py"
    root = tmp_path / "ptqflow"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))

    def digests() -> tuple[str, str]:
        asks = ["stages.generate", "engines.transformers_engine", *generating(entry)]
        judges = ["stages.score", *scoring(entry)]
        return tuple(code_digest(*(f"ptqflow.{module}" for module in part), root=root) for part in (asks, judges))

    def changed(edited: str, old: str, new: str) -> tuple[bool, bool]:
        """Whether (generate, score) of the task have another digest after an edit, which is then taken back."""
        before, text = digests(), (root / edited).read_text()
        assert old in text
        (root / edited).write_text(text.replace(old, new, 1))
        after = digests()
        (root / edited).write_text(text)
        return before[0] != after[0], before[1] != after[1]

    scorer = "import score as score\n"
    own = "def score(row: Row, metric: Metric"  # of benchmarks that judge by more than their kind does
    if scorer in (root / file).read_text():
        assert changed(file, scorer, scorer.replace("score\n", "other\n\n\ndef score(r, m):\n    return other(r, m)\n")) == (0, 1)
    else:
        assert changed(file, own, own.replace("Metric", "object")) == (0, 1)
    if "import item as item\n" not in (root / file).read_text():  # of another benchmark's file
        assert changed(file, "def item(row: Row, index: int)", "def item(row: Row, index: int = 0)") == (1, 0)
    assert changed(f"evaluation/scoring/{kind}.py", "    return Verdict(", "    return (0, Verdict)[1](") == (0, 1)
    assert changed(f"evaluation/requests/{kind}.py", '"completion": ', '"completion": 0 + ') == (1, 0)
    assert changed("evaluation/scoring/verdict.py", "correct: bool | None = None", "correct: bool | None = True") == (0, 1)
    assert changed("evaluation/equality.py", "_LONGEST = 1000", "_LONGEST = 999") == (0, kind == "generation")


def test_scoring_reaches_no_engine_and_no_model():
    names = closure(
        "ptqflow.stages.score",
        *(f"ptqflow.{m}" for b in known_benchmarks() for m in scoring(task({"benchmark": b, "source": {"path": "x"}}))),
    )
    assert not any(name.startswith(("ptqflow.engines", "ptqflow.modeling", "ptqflow.devices")) for name in names)
