"""The commands that README and docs show end well, typed as they stand, in a checkout: quick ones, and the plan of each run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import REPOSITORY
from test_docs import BLOCKS, PAGES, named

QUICK = ("recipes", "formats", "explain", "check", "new", "--help", "--version")
LEFT = {".git", "results", ".snakemake", ".ptqflow"}


def shown():
    """Each `ptqflow` command of the pages that is quick, whole (no NAME to fill in), and asks nothing of the hub."""
    found = {}
    for page in PAGES:
        for words in filter(None, named(page, "ptqflow")):
            words = [word for word in words if word not in ("--", ">")]
            whole = not any(word.isupper() or "..." in word or "{" in word or "[" in word for word in words)
            hub = any("/" in word and not (REPOSITORY / word).exists() for word in words[1:])
            alone = words[0] in ("formats", "explain", "new") and len(words) == 1  # named in a sentence
            if words[0] in QUICK and whole and not hub and not alone:
                found[" ".join(words)] = words
    made = {words[1] for words in found.values() if words[0] == "new"}  # others are of a hub model
    kept = [w for w in found.values() if w[0] != "check" or len(w) == 1 or w[1] in made or (REPOSITORY / w[1]).exists()]
    return sorted(kept, key=lambda words: words[0] != "new")  # what is made first is checked next


def checkout(folder):
    """This repository's files in `folder`, of which config.yaml may be changed; variables of a shell where it is installed."""
    for entry in REPOSITORY.iterdir():
        if entry.name not in LEFT:
            (folder / entry.name).symlink_to(entry)
    (folder / "config.yaml").unlink()
    shutil.copy(REPOSITORY / "config.yaml", folder)
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow"), "HF_HUB_OFFLINE": "1"}
    return variables | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.slow
def test_quick_commands_of_the_docs_end_well(tmp_path):
    environment = checkout(tmp_path)
    commands = shown()
    assert {"recipes", "formats", "explain", "check", "new"} <= {words[0] for words in commands}
    failed = []
    for words in commands:
        command = [sys.executable, "-m", "ptqflow", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        if done.returncode:
            failed.append((" ".join(words), done.stderr[-300:]))
    assert not failed


def runs():
    """Each line of the pages' code blocks that starts Snakemake on a study, with what its block copies and makes before."""
    found = []
    for page in PAGES:
        for block in BLOCKS.findall(page.read_text()):
            before: list[str] = []
            for line in block.replace("\\\n", " ").splitlines():
                line = re.sub(r"\s+#.*$", "", line.removeprefix("$ ")).strip()
                if "snakemake --profile" in line:
                    found.append(pytest.param([*before, line], id=f"{page.stem}: {line[-40:]}"))
                elif line.startswith("cp "):
                    before.append(line)
                elif image := re.match(r"make containers IMAGE=(\w+)", line):
                    before.append(f"touch ptqflow-{image[1]}.sif")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("lines", runs())
def test_runs_of_the_docs_can_be_planned(tmp_path, lines):
    environment = checkout(tmp_path)
    (programs := tmp_path / "programs").mkdir()
    (programs / "apptainer").write_text("#!/bin/sh\necho apptainer version 1.4.0\n")  # a plan asks for no more of it
    (programs / "apptainer").chmod(0o755)
    environment["PATH"] += f"{os.pathsep}{programs}"
    script = " && ".join(lines) + " -n"
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    assert "aggregate" in done.stdout
