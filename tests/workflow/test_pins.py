"""Laws of the pinned environments: every release is checked against hashes, and nothing asked for is missing."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
HASHED = ("core", "dev", "docs", "harness", "vllm")


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


def _brings(requirements: list[str], leaves: tuple[str, ...] = ()) -> set[str]:
    """These requirements and all that they ask for; what the `leaves` ask for is left out."""
    found, left = set(), [Requirement(text) for text in requirements]
    while left:
        asked = left.pop()
        if (key := (_name(asked.name), *sorted(asked.extras))) in found:
            continue
        found.add(key)
        if asked.name in leaves:
            continue
        for extra in asked.extras or {""}:
            needs = [Requirement(text) for text in importlib.metadata.requires(asked.name) or []]
            left += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    return {name for name, *_ in found}


def test_a_users_environment_is_what_the_stages_need_and_dev_adds_the_rest():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = project["dependencies"] + [r for name, rs in extras.items() if name not in ("dev", "docs") for r in rs]
    pinned = set(_entries("core"))
    # A torch for CUDA brings packages of its own, which are no pins of ours.
    assert _brings(asked, leaves=("torch",)) - {"torch", "setuptools"} <= pinned <= _brings(asked)
    assert set(_entries("dev")) == _brings(extras["dev"]) - pinned


def test_whoever_installs_hashed_pins_checks_them():
    installers = [ROOT / "Makefile", *sorted((ROOT / "containers").glob("*.Dockerfile"))]
    for file in installers:
        commands = [c for c in file.read_text().replace("\\\n", " ").splitlines() if not c.startswith("#")]
        steps = [step for command in commands for step in command.split(";")]
        for step in steps:
            if re.search(r"--requirement \S*(core|dev|docs|harness|vllm|\$\{family\})\.txt", step):
                assert "--require-hashes" in step, f"{file.name}: {step.strip()}"
                assert "--no-deps" in step, f"{file.name}: {step.strip()}"
