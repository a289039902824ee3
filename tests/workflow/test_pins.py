"""Laws of the pinned environments: every release is checked against hashes, and nothing asked for is missing."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HASHED = ("core", "docs", "harness", "vllm")


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def _entries(family: str) -> dict[str, str]:
    """What stands of each pin, hashes included, by its normalized name."""
    text = re.sub(r"^#.*\n", "", (ROOT / "envs" / f"{family}.txt").read_text(), flags=re.M)
    return {_name(entry): entry for entry in re.split(r"\n(?=\S)", text.strip())}


@pytest.mark.parametrize("family", HASHED)
def test_every_pin_is_one_version_with_hashes(family):
    for entry in _entries(family).values():
        lines = [line.strip(" \\") for line in entry.splitlines()]
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ;.*)?", lines[0]), lines[0]
        assert len(lines) > 1, f"{lines[0]} has no hash: run make hashes"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in lines[1:]), lines[0]


def test_torch_is_pinned_by_its_version_in_one_place():
    assert list(_entries("torch")) == ["torch"]
    assert not [family for family in HASHED if "torch" in _entries(family)]


def test_what_the_package_asks_for_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(r for name, rs in project["optional-dependencies"].items() if name != "docs" for r in rs),
    ]
    missing = {_name(requirement) for requirement in asked} - {*_entries("core"), *_entries("torch")}
    assert not missing


def test_whoever_installs_hashed_pins_checks_them():
    installers = [ROOT / "Makefile", *sorted((ROOT / "containers").glob("*.Dockerfile"))]
    for file in installers:
        commands = [c for c in file.read_text().replace("\\\n", " ").splitlines() if not c.startswith("#")]
        steps = [step for command in commands for step in command.split(";")]
        for step in steps:
            if re.search(r"--requirement \S*(core|docs|harness|vllm|\$\{family\})\.txt", step):
                assert "--require-hashes" in step, f"{file.name}: {step.strip()}"
                assert "--no-deps" in step, f"{file.name}: {step.strip()}"
