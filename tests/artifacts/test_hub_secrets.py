"""No address of a hub, which may hold a password, is printed by a stage: not in its sentence and not by a library."""

import json
import subprocess
import sys

import pytest
from interrupt import environment

COMMIT = "0" * 40
ASKED = {"task": "t", "benchmark": "text", "source": {"repo": "o/d", "revision": COMMIT}}
STAGES = {
    "fetch": [{"repo": "o/m", "revision": COMMIT}, "--output", "m/manifest.json"],
    "generate": [ASKED, "--platform", "cpu", "--checkpoint", "m/manifest.json", "--output", "x.parquet"],
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("endpoint", ["ftp://user:PASSWORD@hub", "user:PASSWORD@hub"])
def test_a_hub_that_cannot_be_reached_is_one_sentence_without_its_address(tmp_path, stage, endpoint):
    settings, *options = STAGES[stage]
    command = [sys.executable, "-m", "ptqflow", stage, "--settings", json.dumps(settings), *options]
    env = environment(HF_ENDPOINT=endpoint, HF_TOKEN="hf_TOKEN", HF_HOME=str(tmp_path))
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "HF_ENDPOINT" in done.stderr
    assert "PASSWORD" not in done.stderr
    assert "TOKEN" not in done.stderr.replace("HF_TOKEN", "")


def test_warnings_of_the_hubs_library_are_not_printed(caplog):
    from huggingface_hub.utils import logging
    from ptqflow.artifacts.hub import explained

    with explained("model x"):
        logger = logging.get_logger("huggingface_hub.utils._http")
        logger.warning("Retrying http://user:PASSWORD@hub")
        assert not logger.isEnabledFor(30)
