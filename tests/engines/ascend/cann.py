"""A stand-in for the CANN runtime, so that an unmodified torch_npu runs on a machine without an NPU.

    <environment's python> tests/engines/ascend/cann.py FOLDER [CHECK]

compiles shared libraries of empty functions into FOLDER from the symbols that torch_npu's libraries leave undefined, and adds
to them until CHECK (a file of Python, else `import torch_npu`) ends well with `LD_LIBRARY_PATH=FOLDER`. Memory of the pretended
device is the host's, and contiguous copies copy; a kernel called on it does nothing. So schemas, dispatch, the wiring of autograd
and Python code are of use, and no number is. Libraries of CUDA that a build of torch for GPUs asks for and that are not
installed are made of empty functions, too: nothing calls them on a CPU. Needs gcc and binutils (nm, readelf).
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

IMPORT = "import torch, torch_npu; assert torch.npu.is_available() and torch.npu.device_count() == 1"
_HEADER = "#include <stdint.h>\n#include <stdlib.h>\n#include <string.h>\n"
_ALLOCATE = "int {}(void **p, size_t n) {{ *p = aligned_alloc(512, (n + 511) / 512 * 512); memset(*p, 0, n); return 0; }}"
_COPY = "int {}(void *to, size_t room, const void *from, size_t n) {{ memcpy(to, from, n); return 0; }}"
_FREE = "int {}(void *p) {{ free(p); return 0; }}"
_HANDLE = "int {}(void **handle) {{ *handle = malloc(8); return 0; }}"
_OBJECT = "void *{}(void) {{ return malloc(8); }}"
# The functions whose results matter: one device, of the kind that vllm-ascend's wheel is built for, its memory, and handles.
_RUNTIME = {
    "aclrtGetDeviceCount": "int aclrtGetDeviceCount(uint32_t *n) { if (n) *n = 1; return 0; }",
    "aclrtGetSocName": 'const char *aclrtGetSocName(void) { return "Ascend910B1"; }',
    "aclrtGetDevice": "int aclrtGetDevice(int32_t *d) { if (d) *d = 0; return 0; }",
    "aclrtGetCurrentContext": "int aclrtGetCurrentContext(void **c) { static char context[8]; *c = context; return 0; }",
    "aclrtGetSysParamOpt": "int aclrtGetSysParamOpt(int o, int64_t *v) { if (v) *v = 0; return 0; }",
    "aclrtGetMemInfo": "int aclrtGetMemInfo(int a, size_t *f, size_t *t) { *f = *t = (size_t)64 << 30; return 0; }",
    "aclrtQueryEventStatus": "int aclrtQueryEventStatus(void *e, int *s) { *s = 1; return 0; }",  # complete
    "aclrtQueryEvent": "int aclrtQueryEvent(void *e, int *s) { *s = 0; return 0; }",  # complete, in the older interface
}
_ALIKE = {
    _ALLOCATE: ("aclrtMalloc", "aclrtMallocAlign32", "aclrtMallocHost"),
    _COPY: ("aclrtMemcpy", "aclrtMemcpyAsync"),
    _FREE: ("aclrtFree", "aclrtFreeHost"),
    _HANDLE: (
        *("aclrtCreateStream", "aclrtCreateStreamWithConfig"),
        *("aclrtCreateEvent", "aclrtCreateEventWithFlag", "aclrtCreateEventExWithFlag"),
    ),
    _OBJECT: tuple(f"aclCreate{kind}" for kind in ("Tensor", "Scalar", "TensorList", "ScalarList"))
    + tuple(f"aclCreate{kind}Array" for kind in ("Int", "Bool", "Float")),
}
_RUNTIME |= {name: body.format(name) for body, names in _ALIKE.items() for name in names}
_NEEDED = re.compile(r"NEEDED.*\[(lib(?:ascendcl|hccl|acl_\w+|ge_\w+|graph|atb)\.so)\]")
_OPENED = {"libascendcl.so", "libopapi.so", "libnnopbase.so", "libcust_opapi.so"}  # by dlopen
_OPENED |= {"libaclnn_ops_infer.so", "libopapi_nn.so", "libopapi_math.so"}
_MISSED = re.compile(r"(?:Failed to find function|Failed to find this|not find|undefined symbol:)\s+`?([A-Za-z0-9_]+)")
_PAIRS = re.compile(r"(\w+) or (\w+GetWorkspaceSize) not in")
_CUDA = re.compile(r"NEEDED.*\[(lib(?:cu|nv|nccl)\w*\.so[.\d]*)\]")
_SYSTEM = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "libstdc++.so.6", "libgcc_s.so.1", "librt.so.1")
_LOADER_OWN = re.compile(r"_?Py|_ITM|__gmon|_ZTH|_ZGT|__cxa_|__tls|__libc|_dl_")


def _output(*command: str | Path) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False).stdout


def _symbols(kind: str, files: Iterable[Path]) -> set[str]:
    """Names of the `kind` (undefined, defined) symbols of shared libraries."""
    lines = (line for file in files for line in _output("nm", "-D", f"--{kind}-only", file).splitlines())
    return {line.split()[-1].split("@")[0] for line in lines if line.split()}


def _system_libraries() -> list[Path]:
    found = _output("ldconfig", "-p") or _output("/sbin/ldconfig", "-p")
    return [Path(match[1]) for name in _SYSTEM if (match := re.search(rf"{re.escape(name)} .*=> (\S+)", found))]


def _compile(folder: Path, libraries: Iterable[str], names: set[str]) -> None:
    """Write each library with all functions: which one a symbol is looked up in does not matter then."""
    body = "\n".join([*_RUNTIME.values(), *(f"long {name}() {{ return 0; }}" for name in sorted(names - _RUNTIME.keys()))])
    source = folder / "stubs.c"
    source.write_text(_HEADER + body)
    first = folder / "libascendcl.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", str(first), str(source)], check=True)
    for library in libraries:
        if library != first.name:
            (folder / library).unlink(missing_ok=True)
            os.link(first, folder / library)


def _package(name: str) -> Path:
    """Where a package is installed, which cannot be imported yet."""
    found = find_spec(name)
    if found is None or found.origin is None:
        sys.exit(f"{name} is not installed in {sys.prefix}; install it first")
    return Path(found.origin).parent


def _needed(pattern: re.Pattern[str], files: Iterable[Path]) -> set[str]:
    return {name for file in files for name in pattern.findall(_output("readelf", "-d", file))}


def build(folder: Path, check: Path | None = None) -> None:
    """Fill `folder`. Raises SystemExit with the last words of the import (of `check`) where it cannot be made to work."""
    folder.mkdir(parents=True, exist_ok=True)
    npu = _package("torch_npu")
    own, torch = sorted((npu / "lib").glob("*.so")), sorted((_package("torch") / "lib").glob("*.so*"))
    cuda = _needed(_CUDA, torch) - {file.name for file in torch}
    libraries = _OPENED | cuda | _needed(_NEEDED, [*own, *npu.glob("_C*.so")])
    undefined = _symbols("undefined", [*own, *(torch if cuda else [])])
    names = {
        name for name in undefined - _symbols("defined", [*own, *torch, *_system_libraries()]) if not _LOADER_OWN.match(name)
    }
    known = folder / "functions.txt"  # of an earlier run: each import tells one or two that are missed
    names |= set(known.read_text().split()) if known.exists() else set()
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "TASK_QUEUE_ENABLE": "0", "ASCEND_LAUNCH_BLOCKING": "1"}
    environment.pop("ASCEND_HOME_PATH", None)
    command = [sys.executable, *([str(check)] if check else ["-c", IMPORT])]
    while True:
        _compile(folder, libraries, names)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        said = done.stdout + done.stderr
        missed = {*_MISSED.findall(said), *(name for pair in _PAIRS.findall(said) for name in pair)} - names - _RUNTIME.keys()
        known.write_text("\n".join(sorted(names)))
        if done.returncode == 0 and not missed:
            return
        if not missed:
            sys.exit(f"torch_npu does not run over the libraries in {folder}:\n{done.stderr[-2000:]}")
        names |= missed


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve(), *map(Path, sys.argv[2:3]))
