"""Laws of README and docs: links lead somewhere, and every command, option, make target and profile that is named exists."""

import argparse
import json
import re
import shlex
from functools import cache

import pytest
import yaml
from checkout import REPOSITORY
from ptqflow import cli
from ptqflow.checkpoints import registry
from ptqflow.presets import PRESETS

PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "config/README.md")]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))

BLOCKS = re.compile(r"^```\w*\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")


def slug(heading):
    """The anchor of a heading, as GitHub and MkDocs make it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", heading)
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


def prose(page):
    return BLOCKS.sub("", page.read_text())


def commands(page):
    """Each command line of the code blocks and of the code within sentences: comments, prompts and continuations off."""
    text = page.read_text()
    lines = [line for block in BLOCKS.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"(?<!`)`([^`]+)`(?!`)", BLOCKS.sub("", text).replace("\n", " "))
    for line in lines:
        line = re.sub(r"\s+#.*$", "", line.strip().removeprefix("$ "))
        yield from (part.strip() for part in re.split(r"&&|\|\s|;", line))


def named(page, program):
    """The words behind a program's name, of every command that runs it."""
    for command in commands(page):
        command = re.sub(r"^(\w+=\S+ +)+", "", command)
        if match := re.match(rf"(?:\S*/)?{program}(?= |$)(.*)", command):
            yield re.split(r"\s+", match[1].strip()) if match[1].count("'") % 2 else shlex.split(match[1].replace("'s ", "s "))


def targets():
    return set(re.findall(r"^([\w.-]+):(?!=)", (REPOSITORY / "Makefile").read_text(), re.M))


@cache
def options(command):
    """The options of one command or stage."""
    actions = cli._parser(command)._actions
    parser = next(a for a in actions if isinstance(a, argparse._SubParsersAction)).choices[command]
    return {option for action in parser._actions for option in action.option_strings}


@each_page
def test_links_lead_to_files_and_headings(page):
    for target, anchor in LINK.findall(prose(page)):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{target} is not there"
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.*)$", found.read_text(), re.M)), f"{target}#{anchor}"


@each_page
def test_make_targets_exist(page):
    asked = {word for words in named(page, "make") for word in words[:1] if re.fullmatch(r"[a-z.][\w./-]*", word)}
    assert asked <= targets() | {".venv-vllm/.ready", ".venv-ascend/.ready"}


@each_page
def test_commands_of_ptqflow_and_their_options_exist(page):
    known = {*cli.COMMANDS, *cli.STAGES}
    for program in ("ptqflow", "python -m ptqflow"):
        for command, *words in filter(None, named(page, program)):
            if not re.fullmatch(r"[a-z][a-z-]*", command):
                continue  # COMMAND, --version, ...
            assert command in known, f"ptqflow {command}"
            asked = {re.match(r"--[\w-]+", word)[0] for word in words if word.startswith("--") and len(word) > 2} - {"--help"}
            if asked and command != "run":  # which hands on what is Snakemake's
                assert asked <= options(command), f"ptqflow {command}: {asked - options(command)}"


@each_page
def test_profiles_exist(page):
    there = {path.name for path in (REPOSITORY / "workflow/profiles").iterdir()}
    asked = re.findall(r"--profile[ =]([a-z][\w-]*)", page.read_text())
    assert set(asked) <= there


@each_page
def test_files_of_commands_exist(page):
    for program in ("python3?", "cp"):
        for words in named(page, program):
            files = [word for word in words if re.fullmatch(r"(benchmarks|tests|resources|config|envs)/[\w/.-]+\.\w+", word)]
            assert all((REPOSITORY / file).exists() for file in files), files


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("recipes.md", PRESETS),
        ("workflow.md", cli.STAGES),
        ("checkpoints.md", registry.forms()),
    ],
)
def test_tables_of_what_there_is_name_all_of_it(page, names):
    rows = [line for line in (REPOSITORY / "docs" / page).read_text().splitlines() if line.startswith("|")]
    cells = {cell.strip(" `") for row in rows for cell in re.split(r"[|,]", row)} | set(re.findall(r"`([^`]+)`", " ".join(rows)))
    assert set(names) <= cells


def test_every_key_of_the_configuration_is_described():
    def keys(schema):
        inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
        own = schema.get("properties", {}) if isinstance(schema, dict) else {}
        return {*own, *(key for value in inner for key in keys(value))}

    asked = keys(json.loads((REPOSITORY / "workflow/schemas/config.schema.json").read_text()))
    text = "".join((REPOSITORY / "docs" / page).read_text() for page in ("configuration.md", "recipes.md", "statistics.md"))
    assert not {key for key in asked if not re.search(rf"\b{key}\b", text)}


@each_page
def test_tests_that_are_named_exist(page):
    there = {path.name for path in (REPOSITORY / "tests").rglob("test_*.py")}
    assert set(re.findall(r"\b(test_\w+\.py)\b", page.read_text())) <= there


def test_the_site_shows_every_page():
    nav = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
    shown = {path for entry in nav for value in entry.values() for path in _paths(value)}
    assert {path.name for path in (REPOSITORY / "docs").glob("*.md")} <= shown


def _paths(value):
    return [value] if isinstance(value, str) else [path for entry in value for inner in entry.values() for path in _paths(inner)]


def test_the_readers_find_what_is_there():
    """The extraction itself: a page without commands would pass every law above."""
    readme = PAGES[0]
    assert {"demo", "test"} <= {words[0] for words in named(readme, "make") if words}
    assert {"quantize-model", "new", "check", "run"} <= {words[0] for words in named(readme, "ptqflow") if words}
    assert "--out" in options("quantize-model")
