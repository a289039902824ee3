"""`make check-devices`: the self-test on this CPU and on the dispatch of real torch_npu wheels, without an NPU.

Fetches the wheels of envs/devices.txt into build/npu (5 GB), compiles a stand-in for CANN for each, and runs
tests/selftest/on_wheel.py over it. Kernels of the stand-in compute nothing: only how autograd is wired, what dtypes
become, which kernels there are and whether operators take our calls is asked; what is asked of numbers is named below the table.
Ends with an error where a release that drops the gradient of `Tensor.inverse` is not caught, or another one does not pass.
Needs Python 3.11, gcc, binutils and the package index.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from ptqflow.devices.device import select
from ptqflow.selftest.probes import everything

REPOSITORY = Path(__file__).parents[2]
BUILD = REPOSITORY / "build" / "npu"
DROPPING = {"2.5.1.post1", "2.6.0"}  # op-plugin 60cac7a4 of July 2025 gave `inverse` its derivative
CAUGHT = ["Tensor.inverse has a gradient", "torch.inverse has a gradient", "Tensor.double().inverse() has a gradient"]
Rows = list[dict[str, Any]]


def fetched(requirement: str) -> list[str]:
    """The folder with the wheel of `name==version`, unpacked without its dependencies; none where it is this environment's."""
    if requirement == f"torch=={torch.__version__.partition('+')[0]}":
        return []
    folder = BUILD / requirement
    if not (folder / ".ready").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile"]
        subprocess.run([*command, "--upgrade", "--target", str(folder), requirement], check=True)
        (folder / ".ready").touch()
    return [str(folder)]


def on_wheel(torch_wheel: str, npu_wheel: str) -> tuple[Rows, Rows, dict[str, str]]:
    """Rows of the self-test over a stand-in for CANN, of calls of its operators, and by recipe why it is refused."""
    cann = BUILD / f"cann-{npu_wheel}"
    paths = [*fetched(torch_wheel), *fetched(npu_wheel), *(str(REPOSITORY / part) for part in ("workflow", "tests/support"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TASK_QUEUE_ENABLE": "0", "ASCEND_LAUNCH_BLOCKING": "1"}
    environment |= {"ASCEND_GLOBAL_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    check = Path(__file__).with_name("on_wheel.py")
    subprocess.run(
        [sys.executable, str(REPOSITORY / "tests/engines/ascend/cann.py"), str(cann), str(check)], env=environment, check=True
    )
    done = subprocess.run(
        [sys.executable, str(check)],
        env=environment | {"LD_LIBRARY_PATH": str(cann)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    calls = [row for row in found if "operator" in row]
    return [row for row in found if "probe" in row], calls, {row["recipe"]: row["refused"] for row in found if "recipe" in row}


def _mark(row: dict[str, Any]) -> str:
    """Of one answer. One that only raised says something of the stand-in, or of the release: its note tells."""
    if row["passed"] is False:
        return "raises" if row["value"] is None else "**fails**"
    return "ok" if row["passed"] else "·"


def table(columns: dict[str, Rows]) -> str:
    """Markdown: probe by device; below, what failing probes said and what a stand-in cannot tell."""
    first, *others = columns.values()
    lines = ["| probe | relied on by | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    notes: dict[str, list[str]] = {}
    unasked = []
    for index, row in enumerate(first):
        cells = [row, *(rows[index] for rows in others)]
        if all(cell["passed"] is None for cell in cells[1:]):
            unasked.append(row["probe"])
            continue
        lines.append(f"| {row['probe']} | {row['relied_on_by'] or '–'} | {' | '.join(map(_mark, cells))} |")
        for name, cell in zip(columns, cells, strict=True):
            if cell["passed"] is False:
                said = cell["detail"].partition(" [ERROR]")[0]
                notes.setdefault(f"{row['probe']}: {said}", []).append(name)
    lines += ["", *(f"- {note} ({', '.join(names)})" for note, names in notes.items())]
    ok = sum(row["passed"] is True for row in first)
    lines.append(
        f"- Not asked over a stand-in, which has no numbers ({ok} of all {len(first)} right on the CPU): {', '.join(unasked)}."
    )
    return "\n".join(lines)


def wrong(release: str, rows: Rows, refused: dict[str, str]) -> list[str]:
    """What is not as it must be with this release of torch_npu."""
    dropping = release in DROPPING
    gradients = [row for row in rows if "has a gradient" in row["probe"] or row["relied_on_by"]]
    failed = {row["probe"] for row in gradients if row["passed"] is False and row["value"] is not None}
    found = [f"{name} passes" for name in CAUGHT if dropping and name not in failed]
    found += [f"{name} fails" for name in sorted(failed - (set(CAUGHT) if dropping else set()))]
    if bool(refused["flatquant-w4a4kv4"]) != dropping:
        found.append(f"flatquant-w4a4kv4 is {'not ' if dropping else ''}refused {refused['flatquant-w4a4kv4']}")
    found += [f"{name} is refused" for name in ("gptq-w4a16", "rtn-w8a8") if refused[name]]
    return [f"torch_npu {release}: {what}" for what in found]


def main() -> None:
    """Print the table, and what recipes would be refused; write both to build/npu/selftest.md."""
    if sys.version_info[:2] != (3, 11):
        sys.exit("the wheels of envs/devices.txt are for Python 3.11; make the environment with PYTHON=python3.11")
    columns = {"CPU": list(everything(select("cpu")))}
    operators: list[str] = []
    verdicts, errors = [], [f"CPU: {row['probe']} fails" for row in columns["CPU"] if not row["passed"]]
    for line in (REPOSITORY / "envs" / "devices.txt").read_text().splitlines():
        if line.startswith("torch"):
            torch_wheel, npu_wheel = line.split()
            release = npu_wheel.partition("==")[2]
            print(f"check-devices: {npu_wheel} over a stand-in for CANN", file=sys.stderr)
            columns[release], calls, refused = on_wheel(torch_wheel, npu_wheel)
            verdicts += [f"- torch_npu {release}, `{recipe}`: {why or 'not refused'}" for recipe, why in refused.items()]
            errors += wrong(release, columns[release], refused)
            refusing = [f"{call['operator']}: {call['detail']}" for call in calls if not call["ok"]]
            errors += [f"torch_npu {release}: {what}" for what in refusing or ([] if calls else ["no operator was asked"])]
            operators.append(
                f"- torch_npu {release}: {len(calls) - len(refusing)} of {len(calls)} {'; '.join(refusing)}".rstrip()
            )
    text = "\n\n".join([table(columns), "If recipes trained through the device's own `Tensor.inverse`:", "\n".join(verdicts)])
    text += (
        "\n\nCalls of `ptqflow.devices.npu` that schemas and Meta kernels of torch_npu take, with the results they must have:\n\n"
    )
    text += "\n".join(operators)
    (BUILD / "selftest.md").write_text(text + "\n")
    print(text)
    if errors:
        sys.exit("check-devices: " + "; ".join(errors))


if __name__ == "__main__":
    main()
