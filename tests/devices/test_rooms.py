"""Only `devices/` names devices: what runs elsewhere is told its device, so that a further one is added in one room."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import REPOSITORY

PACKAGE = REPOSITORY / "workflow" / "ptqflow"
NAMED = re.compile(r"\b(cuda|npu|torch_npu|xpu|mps|hpu)\b")
# Who may, and why.
ALLOWED = {
    "platforms.py": "the table of platforms, which the Snakefile reads without torch",
    "numerics/switches.py": "says of each emulation switch which software it is faithful to",
    "artifacts/provenance.py": "versions of installed packages are recorded by their names",
}


def device_names(source: str) -> Iterator[str]:
    """Names of devices in code: in strings but docstrings, as attributes and as imports."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from NAMED.findall(node.value)
        elif isinstance(node, ast.Attribute):
            yield from NAMED.findall(node.attr)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (name for text in names for name in NAMED.findall(text))


def rooms() -> dict[str, list[str]]:
    """Names of devices by the file that has them."""
    files: list[Path] = sorted(PACKAGE.rglob("*.py"))
    found = {str(path.relative_to(PACKAGE)): list(device_names(path.read_text())) for path in files}
    return {name: names for name, names in found.items() if names}


def test_no_other_room_names_a_device():
    elsewhere = {name: names for name, names in rooms().items() if not name.startswith("devices/")}
    assert elsewhere.keys() == ALLOWED.keys()


@pytest.mark.parametrize(
    "code",
    [
        'x.to("cuda")',
        'f"npu:{index}"',
        "torch.cuda.synchronize()",
        "x.npu()",
        "import torch_npu",
        "from torch.cuda import amp",
        'import_module("torch_npu")',
    ],
)
def test_each_way_to_name_one_is_seen(code):
    assert list(device_names(code))


@pytest.mark.parametrize("code", ['"""On cuda."""', '"npu_kronecker_quant takes no such sides"', 'torch.device("cpu")'])
def test_what_names_none_is_not(code):
    assert not list(device_names(code))


def test_the_room_of_devices_has_them():
    assert "devices/device.py" in rooms()


# ---- kernels of our own


STORES = re.compile(r"tl\.(store|atomic_\w+)")


def pointers(function: ast.FunctionDef, operations: re.Pattern[str]) -> set[str]:
    """Arguments of a kernel that such operations are given addresses in: what stands leftmost in a sum."""
    made = {
        target.id: node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    arguments, found = {argument.arg for argument in function.args.args}, set()
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and operations.fullmatch(ast.unparse(node.func)):
            address, seen = node.args[0], list[str]()
            while not (isinstance(address, ast.Name) and address.id in arguments):
                if isinstance(address, ast.Name):
                    assert address.id in made, f"{address.id} is no simple assignment"
                    assert address.id not in seen, f"{address.id} is made of itself"
                    seen.append(address.id)
                    address = made[address.id]
                else:
                    assert isinstance(address, ast.BinOp)
                    assert isinstance(address.op, ast.Add), "an address begins with its pointer"
                    address = address.left
            found.add(address.id)
    return found


def compiled() -> list[ast.FunctionDef]:
    """All that Triton compiles."""
    trees = [ast.parse(path.read_text()) for path in sorted((PACKAGE / "devices").glob("triton_*.py"))]
    return [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list]


@pytest.mark.parametrize("function", compiled(), ids=lambda function: function.name)
def test_no_kernel_writes_what_it_reads(function):
    """Threads that hold the same numbers do not wait for each other: on a GPU one would read what another has written.

    What is no kernel, and stores nothing, touches no memory, so that all can be seen in the kernel.
    """
    read, written = pointers(function, re.compile(r"tl\.load")), pointers(function, STORES)
    assert bool(read) == bool(written)
    assert not read & written
