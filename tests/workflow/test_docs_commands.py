"""The quick commands that README and docs show end well, typed as they stand, in a checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import REPOSITORY
from test_docs import PAGES, named

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


@pytest.mark.slow
def test_quick_commands_of_the_docs_end_well(tmp_path):
    for entry in REPOSITORY.iterdir():
        if entry.name not in LEFT:
            (tmp_path / entry.name).symlink_to(entry)
    commands = shown()
    assert {"recipes", "formats", "explain", "check", "new"} <= {words[0] for words in commands}
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow"), "HF_HUB_OFFLINE": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    failed = []
    for words in commands:
        command = [sys.executable, "-m", "ptqflow", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        if done.returncode:
            failed.append((" ".join(words), done.stderr[-300:]))
    assert not failed
