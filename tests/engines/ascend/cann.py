"""A stand-in for the CANN runtime, so that an unmodified torch_npu can be imported on a machine without an NPU.

    <environment's python> tests/engines/ascend/cann.py FOLDER

compiles shared libraries of empty functions into FOLDER from the symbols that torch_npu's libraries leave undefined, and adds
to them until `import torch_npu` works with `LD_LIBRARY_PATH=FOLDER`. Only schemas, dispatch and Python code are of use then: a
kernel called on the pretended device does nothing. Needs gcc and binutils (nm, readelf).
"""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

SITE = Path(sysconfig.get_paths()["purelib"])
IMPORT = "import torch, torch_npu; assert torch.npu.is_available() and torch.npu.device_count() == 1"
_HEADER = "#include <stdint.h>\n#include <stdlib.h>\n"
# The few functions whose results matter for an import: one device, of the kind that vllm-ascend's wheel is built for.
_RUNTIME = {
    "aclrtGetDeviceCount": "int aclrtGetDeviceCount(uint32_t *n) { if (n) *n = 1; return 0; }",
    "aclrtGetSocName": 'const char *aclrtGetSocName(void) { return "Ascend910B1"; }',
    "aclrtGetDevice": "int aclrtGetDevice(int32_t *d) { if (d) *d = 0; return 0; }",
    "aclrtGetCurrentContext": "int aclrtGetCurrentContext(void **c) { static char context[8]; *c = context; return 0; }",
    "aclrtCreateStreamWithConfig": "int aclrtCreateStreamWithConfig(void **s) { *s = malloc(8); return 0; }",
    "aclrtGetSysParamOpt": "int aclrtGetSysParamOpt(int o, int64_t *v) { if (v) *v = 0; return 0; }",
    "aclrtGetMemInfo": "int aclrtGetMemInfo(int a, size_t *f, size_t *t) { *f = *t = (size_t)64 << 30; return 0; }",
}
_NEEDED = re.compile(r"NEEDED.*\[(lib(?:ascendcl|hccl|acl_\w+|ge_\w+|graph|atb)\.so)\]")
_OPENED = {"libascendcl.so", "libopapi.so", "libnnopbase.so", "libcust_opapi.so"}  # by dlopen
_OPENED |= {"libaclnn_ops_infer.so", "libopapi_nn.so", "libopapi_math.so"}
_MISSED = re.compile(r"(?:Failed to find function|Failed to find this|not find|undefined symbol:)\s+`?([A-Za-z0-9_]+)")
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


def build(folder: Path) -> None:
    """Fill `folder`. Raises SystemExit with the import's last words where it cannot be made to work."""
    folder.mkdir(parents=True, exist_ok=True)
    own = sorted((SITE / "torch_npu" / "lib").glob("*.so"))
    extensions = sorted((SITE / "torch_npu").glob("_C*.so"))
    libraries = _OPENED | {name for file in [*own, *extensions] for name in _NEEDED.findall(_output("readelf", "-d", file))}
    given = _symbols("defined", [*own, *(SITE / "torch" / "lib").glob("*.so*"), *_system_libraries()])
    names = {name for name in _symbols("undefined", own) - given if not _LOADER_OWN.match(name)}
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    environment.pop("ASCEND_HOME_PATH", None)
    while True:
        _compile(folder, libraries, names)
        done = subprocess.run([sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True, errors="replace")
        if done.returncode == 0:
            return
        missed = set(_MISSED.findall(done.stdout + done.stderr)) - names
        if not missed:
            sys.exit(f"torch_npu cannot be imported over the libraries in {folder}:\n{done.stderr[-2000:]}")
        names |= missed


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
