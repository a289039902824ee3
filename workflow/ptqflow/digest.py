"""A digest of the code a job can reach, so that Snakemake reruns exactly the jobs whose code changed.

The digest is sha256 over the canonical syntax trees of a module's import closure inside this package: comments, docstrings and
formatting change nothing; a changed constant in a shared helper changes every method that imports it. Modules are parsed,
never imported, so the Snakefile stays light. Imports by name (`importlib`) are invisible here: whoever asks names those modules.

`module:name` stands for what one name of a module can reach: a benchmark's file holds its prompt and its scorer, and a job that
generates depends on the one alone.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = "ptqflow"
ROOT = Path(__file__).resolve().parent


def _file(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _canonical(node: object) -> object:
    """The tree without positions, contexts, docstrings and empty fields: equal on every supported Python."""
    if isinstance(node, ast.AST):
        fields = {}
        for name, value in ast.iter_fields(node):
            if name in ("ctx", "type_comment", "kind"):
                continue
            if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                value = _without_docstring(value)
            entry = _canonical(value)
            if entry not in (None, []):
                fields[name] = entry
        return [type(node).__name__, sorted(fields.items())]
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    return None if node is None else [type(node).__name__, repr(node)]


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body


def _imports(tree: ast.AST, module: str, path: Path, root: Path) -> set[str]:
    """Names of this package's modules that `tree` imports, anywhere in it (functions included)."""
    is_package = path.name == "__init__.py"
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*parts, base] if base else parts)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == PACKAGE and _file(name, root)}


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of a module binds; none: it runs for its effect, or binds in ways not told apart here."""
    match statement:
        case ast.Import() | ast.ImportFrom():
            return {alias.asname or alias.name.split(".")[0] for alias in statement.names}
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {statement.name}
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return set()


def _slice(tree: ast.Module, name: str) -> ast.Module:
    """The statements of a module that `name` can reach, and those that bind no name, in their order."""
    wanted, kept = {name}, dict[int, ast.stmt]()
    while new := {i: s for i, s in enumerate(tree.body) if i not in kept and (not (names := _bound(s)) or names & wanted)}:
        kept |= new
        wanted |= {node.id for s in new.values() for node in ast.walk(s) if isinstance(node, ast.Name)}
    return ast.Module([_only(kept[i], wanted) for i in sorted(kept)], [])


def _only(statement: ast.stmt, wanted: set[str]) -> ast.stmt:
    """An import without the names that nobody wants; other statements as they are."""
    if not isinstance(statement, ast.ImportFrom):
        return statement
    return ast.ImportFrom(statement.module, [a for a in statement.names if (a.asname or a.name) in wanted], statement.level)


@cache
def _parsed(module: str, name: str, path: Path, root: Path, stamp: tuple[int, int]) -> tuple[str, frozenset[str]]:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    if name:
        if not any(name in _bound(statement) for statement in tree.body):
            raise ModuleNotFoundError(f"no {name} in {path}")
        tree = _slice(tree, name)
    digest = hashlib.sha256(repr(_canonical(tree)).encode()).hexdigest()
    return digest, frozenset(_imports(tree, module, path, root))


def closure(*modules: str, root: Path = ROOT) -> dict[str, str]:
    """Every module of the package (its folder is `root`) that importing `modules` can run, with the digest of its own tree.

    Parent packages are included, because importing a.b.c runs a and a.b. Of `module:name`, only what `name` reaches counts.
    Raises ModuleNotFoundError for an unknown module or name.
    """
    found: dict[str, str] = {}
    waiting = [*modules]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        file, _, name = module.partition(":")
        path = _file(file, root)
        if path is None:
            raise ModuleNotFoundError(f"no module {file} in {root}")
        stat = path.stat()
        found[module], imports = _parsed(file, name, path, root, (stat.st_mtime_ns, stat.st_size))
        waiting += [*imports, *([file.rpartition(".")[0]] if "." in file else [])]
    return found


def code_digest(*modules: str, root: Path = ROOT) -> str:
    """`modules:digest`, the digest being 16 hexadecimal characters over the import closure of `modules`."""
    names = sorted(set(modules))
    digest = hashlib.sha256(repr(sorted(closure(*names, root=root).items())).encode()).hexdigest()[:16]
    return f"{'+'.join(name.removeprefix(PACKAGE + '.') for name in names)}:{digest}"
