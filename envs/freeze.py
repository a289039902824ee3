"""Rewrite envs/core.txt from the versions installed in the running environment (`make pins`)."""

import re
import subprocess
import sys
from pathlib import Path

HEADER = """# The tested versions of everything the stages on one machine need: quantization, the transformers engine, lighteval,
# Snakemake, tests. pyproject.toml lists the direct dependencies; `make pins` rewrites this file.
"""

frozen = subprocess.run([sys.executable, "-m", "pip", "freeze", "--exclude-editable"], capture_output=True, text=True, check=True)
# A local build (torch 2.13.0+cpu, or a file) is pinned by its public version.
pins = [re.sub(r"\+.*$", "", line) for line in frozen.stdout.splitlines() if "==" in line and not line.startswith("ptqflow")]
Path(__file__).with_name("core.txt").write_text(HEADER + "\n".join(pins) + "\n")
