"""Rewrite a list of pins with the hash of every file of each release: `python envs/freeze.py core` (`make pins`).

The versions are those of the environment whose interpreter is `--python`; without it those that the list names already (after a
line was added by hand). core is what .venv holds for a user, dev what tests and checks of style add to it. Hashes are what uv
(on the PATH) finds in the index: of all platforms, so that one list serves x86_64 and aarch64. torch is in envs/torch.txt, by its
version alone: its builds for CPUs, CUDA and beside torch_npu come from several indexes, and have other hashes in each.
"""

import argparse
import re
import subprocess
from pathlib import Path

LEFT_OUT = ("pip", "ptqflow", "setuptools-scm", "torch", "torchaudio", "torchcodec", "torchvision")


def installed(python: str) -> list[str]:
    """`name==version` of what an environment holds. A local build (1.2+cpu, or a file) is pinned by its public version."""
    command = [python, "-m", "pip", "freeze", "--all", "--exclude-editable"]
    frozen = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [re.sub(r"\+.*$", "", line) for line in frozen if "==" in line and line.split("==")[0] not in LEFT_OUT]


def listed(text: str) -> list[str]:
    """`name==version` of a list, hashes left out."""
    return re.findall(r"^[\w.-]+==[^\s\\;]+", text, re.M)


def name(pin: str) -> str:
    """The project's name as indexes normalize it."""
    return re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower()


def hashed(pins: list[str]) -> str:
    """The pins, each with the sha256 of every file of its release."""
    command = ["uv", "pip", "compile", "--no-deps", "--universal", "--python-version", "3.11", "--generate-hashes"]
    command += ["--no-config", "--no-header", "--no-annotate", "-"]
    return subprocess.run(command, input="\n".join(pins), stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> None:
    """Keep the list's opening comment, rewrite what follows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=("core", "dev", "docs", "harness", "vllm"))
    parser.add_argument("--python", help="interpreter of the environment whose versions are taken")
    args = parser.parse_args()
    file = Path(__file__).with_name(f"{args.name}.txt")
    text = file.read_text()
    pins = installed(args.python) if args.python else listed(text)
    if args.name == "core":
        tools = {name(pin) for pin in listed(file.with_name("dev.txt").read_text())} | {"setuptools"}
        pins = [pin for pin in pins if name(pin) not in tools]
    elif args.name == "dev":
        tools = {name(pin) for pin in listed(text)}
        pins = [pin for pin in pins if name(pin) in tools]
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    file.write_text(header + hashed(pins))


if __name__ == "__main__":
    main()
