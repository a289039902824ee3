"""`docs/extending.md` says of each kind of extension which files it is: they are there, and nobody else names them."""

import re

import pytest
from checkout import REPOSITORY

PACKAGE = REPOSITORY / "workflow/ptqflow"
ROWS = re.findall(r"^\| ([\w ]+) \| (`.*<name>.*?) \| (.*) \|$", (REPOSITORY / "docs/extending.md").read_text(), re.MULTILINE)
KINDS = {kind: re.findall(r"`([\w/<>.]+\.py)`", files) for kind, files, _ in ROWS}


def found(pattern):
    """name -> module of the files that fit a pattern."""
    before, after = pattern.split("<name>")
    paths = PACKAGE.glob(pattern.replace("<name>", "*"))
    return {
        str(path.relative_to(PACKAGE))[len(before) : -len(after)]: str(path.relative_to(PACKAGE).with_suffix("")).replace(
            "/", "."
        )
        for path in paths
        if path.stem != "__init__"
    }


def test_every_kind_is_there():
    assert set(KINDS) >= {
        *("rounding", "transform", "clip", "rotation", "architecture", "benchmark", "engine", "form of checkpoint", "figure")
    }
    mentioned = re.findall(r"`([\w/]+\.py)`", " ".join(read for *_, read in ROWS))
    assert all((PACKAGE / path).is_file() for path in mentioned)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_of_a_kind_is_these_files(kind):
    *_, last = (found(pattern) for pattern in KINDS[kind])  # the settings of a method, the layout of a form
    assert last
    for pattern in KINDS[kind]:
        assert {name for name in found(pattern) if not name.endswith("_settings")} <= set(last)


TEXTS = {str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."): path.read_text() for path in PACKAGE.rglob("*.py")}


def importers(name):
    return {module for module, text in TEXTS.items() if re.search(rf"(from|import) ptqflow\.{re.escape(name)}\b", text)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_of_a_kind_is_imported_by_name_alone(kind):
    """By its own files apart, and by modules that serve nobody else (`methods.flat_block`)."""
    own = {module for pattern in KINDS[kind] for module in found(pattern).values()}
    for name in own:
        others = {module for module in importers(name) - own if not importers(module) or importers(module) - own}
        assert not others, f"{others} name {name}"
