"""A digest of the code a job can reach, so that Snakemake reruns exactly the jobs whose code changed what they do.

The unit is a definition: a function, a class or a constant at the top of a module. From the modules of a job, names are followed
from definition to definition inside this package; what no name leads to changes nothing. sha256 is over canonical syntax trees.
Neutral in them are comments, docstrings, formatting; the literal text of what is raised, printed, logged or reported as progress;
that of `help` and `description`. Imports count where their names are used; a module that is imported and not named again is there
for its effects, so all of it counts. Other statements that are no definitions (an `if`, a call) run with any import of their
module, and count always.

Modules are parsed, never imported, so the Snakefile stays light. Imports by name (`importlib`) are invisible here: whoever asks
names those modules, and all in them counts; of `module:name`, only what that definition reaches (a benchmark's file says what is
asked and how it is scored). Assumed of this package: a definition acts on nothing but its own name (no decorator that registers
it).
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

PACKAGE = "ptqflow"
ROOT = Path(__file__).resolve().parent
_SPEAKING = {
    "print",
    "progress",
    "error",
    "warn",
    "warning",
    "info",
    "debug",
    "add_argument",
    "ArgumentParser",
}  # calls for people
_DESCRIBING = {"help", "description"}  # keywords for people

# What a name leads to: a definition of a module, (module, ALL) or (module, RUN): what any import of the module runs.
ALL, RUN = "*", ""
Target = tuple[str, str]


@dataclass(frozen=True)
class _Part:
    """A definition, or all statements of a module that are none."""

    digest: str
    targets: frozenset[Target]


@dataclass(frozen=True)
class _Module:
    """The parts of a module by name (RUN: the statements that are no definitions), and what its imported names stand for."""

    parts: dict[str, _Part]
    imported: dict[str, frozenset[Target]]


@dataclass(frozen=True)
class _Statement:
    """A statement and what is in it, found in one walk: imports, names and strings, attributes of names."""

    tree: ast.stmt
    imports: list[ast.Import | ast.ImportFrom]
    words: list[ast.Name | ast.Constant]
    attributes: list[tuple[ast.Name, str]]

    @classmethod
    def of(cls, tree: ast.stmt) -> "_Statement":
        found = cls(tree, [], [], [])
        waiting: list[object] = [tree]
        while waiting:
            node = waiting.pop()
            if isinstance(node, list):
                waiting += node
            elif isinstance(node, ast.Name):
                found.words.append(node)
            elif isinstance(node, ast.Constant):
                if isinstance(node.value, str):
                    found.words.append(node)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found.imports.append(node)
            elif isinstance(node, ast.AST):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    found.attributes.append((node.value, node.attr))
                waiting += [getattr(node, name) for name in node._fields if hasattr(node, name)]
        return found

    @property
    def names(self) -> set[str]:
        return {node.id for node in self.words if isinstance(node, ast.Name)}


def closure(*modules: str, root: Path = ROOT) -> dict[str, str]:
    """Every module of the package (its folder is `root`) of which `modules` can run something, with the digest of that.

    Parent packages are included, because importing a.b.c runs a and a.b. Raises ModuleNotFoundError for an unknown name.
    """
    reached: set[Target] = set()
    waiting: list[Target] = []
    read = cache(partial(_module, root=root))  # each file is looked at once
    for entry in modules:
        module, _, name = entry.partition(":")
        if _file(module, root) is None:
            raise ModuleNotFoundError(f"no module {module} in {root}")
        if name and name not in read(module).parts.keys() | read(module).imported.keys():
            raise ModuleNotFoundError(f"no {name} in {module}")
        waiting.append((module, name or ALL))
    while waiting:
        target = waiting.pop()
        if target not in reached:
            reached.add(target)
            waiting += _next(target, read(target[0]), root)
    parts: dict[str, list[tuple[str, str]]] = {}
    for module, name in reached:
        if part := read(module).parts.get(name):
            parts.setdefault(module, []).append((name, part.digest))
    return {module: _sha256(sorted(found)) for module, found in parts.items()}


def code_digest(*modules: str, root: Path = ROOT) -> str:
    """`modules:digest`, the digest being 16 hexadecimal characters over all that `modules` can run."""
    names = sorted(set(modules))
    digest = _sha256(sorted(closure(*names, root=root).items()))[:16]
    return f"{'+'.join(name.removeprefix(PACKAGE + '.') for name in names)}:{digest}"


def _sha256(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _next(target: Target, module: _Module, root: Path) -> Iterator[Target]:
    """Where a target of a module leads in one step."""
    name, definition = target
    yield name, RUN
    if definition == RUN and "." in name:
        yield name.rpartition(".")[0], RUN
    if definition == ALL:
        yield from ((name, part) for part in module.parts)
    elif part := module.parts.get(definition):
        yield from part.targets
    elif definition in module.imported:
        yield from module.imported[definition]
    elif _file(f"{name}.{definition}", root):
        yield f"{name}.{definition}", RUN
    else:
        yield name, ALL


def _file(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _module(name: str, root: Path) -> _Module:
    path = _file(name, root)
    assert path is not None, name
    stat = path.stat()
    return _parsed(name, path, root, (stat.st_mtime_ns, stat.st_size))


@cache
def _parsed(name: str, path: Path, root: Path, stamp: tuple[int, int]) -> _Module:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    statements: dict[str, list[_Statement]] = {RUN: []}
    imported: dict[str, set[Target]] = {}
    origins: dict[str, set[str]] = {}
    used: set[str] = set()
    for tree_of_one in _without_docstring(tree.body):
        statement = _Statement.of(tree_of_one)
        used |= statement.names
        for node in statement.imports:
            for alias, target in _imports(node, name, path, root):
                imported.setdefault(alias, set()).add(target)
            for alias, origin in _origins(node):
                origins.setdefault(alias, set()).add(origin)
        for defined in _defines(tree_of_one) or [RUN]:
            statements.setdefault(defined, []).append(statement)
    local = {key: frozenset({(name, key)}) for key in statements if key != RUN}
    names = {alias: frozenset(targets) for alias, targets in imported.items()}
    for_effect = {(f"{m}.{n}", ALL) for alias in imported.keys() - used for m, n in imported[alias] if _file(f"{m}.{n}", root)}
    parts = {}
    for key, found in statements.items():
        targets = {target for statement in found for target in _targets(statement, names | local, name, path, root)}
        own = [statement for statement in found if not isinstance(statement.tree, ast.Import | ast.ImportFrom)]
        words = {word for statement in own for word in statement.names}
        canonical = [_canonical(statement.tree) for statement in own]
        content = canonical, sorted((word, sorted(origins.get(word, []))) for word in words)
        parts[key] = _Part(_sha256(content), frozenset(targets | (for_effect if key == RUN else set())))
    return _Module(parts, names)


def _origins(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """(name bound, what it stands for) of any import: a definition means something else when its names do."""
    base = "." * node.level + (node.module or "") + ":" if isinstance(node, ast.ImportFrom) else ""
    for alias in node.names:
        yield alias.asname or alias.name.split(".")[0], base + alias.name


def _defines(statement: ast.stmt) -> list[str]:
    """The names that a definition gives; none where a statement is no definition."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    flat = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [target.id for target in flat if isinstance(target, ast.Name)] if all(isinstance(t, ast.Name) for t in flat) else []


def _imports(node: ast.Import | ast.ImportFrom, module: str, path: Path, root: Path) -> Iterator[tuple[str, Target]]:
    """(name bound, what it stands for) of an import of this package's own modules."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] == PACKAGE and _file(alias.name, root):
                yield alias.asname or PACKAGE, (alias.name, ALL)
    else:
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            parts = parts[: len(parts) - node.level + (1 if path.name == "__init__.py" else 0)]
            base = ".".join([*parts, base] if base else parts)
        if base.split(".")[0] == PACKAGE and _file(base, root):
            for alias in node.names:
                yield alias.asname or alias.name, (base, alias.name)


def _targets(statement: _Statement, names: dict[str, frozenset[Target]], module: str, path: Path, root: Path) -> Iterator[Target]:
    """What the names in a statement lead to. A string may be a forward reference, so it leads where the name would."""
    for node in statement.imports:
        for _, (imported, name) in _imports(node, module, path, root):
            yield imported, RUN
            if name == ALL or _file(f"{imported}.{name}", root):
                yield (imported, ALL) if name == ALL else (f"{imported}.{name}", RUN)
    through: set[ast.Name] = set()
    for owner, attribute in statement.attributes:
        modules = [f"{m}.{n}" for m, n in names.get(owner.id, ()) if n not in (ALL, RUN) and _file(f"{m}.{n}", root)]
        if modules:
            through.add(owner)
            yield from ((found, attribute) for found in modules)
    for leaf in statement.words:
        word = leaf.id if isinstance(leaf, ast.Name) else leaf.value
        if isinstance(word, str) and leaf not in through:
            for found, name in names.get(word, ()):
                yield (f"{found}.{name}", ALL) if isinstance(leaf, ast.Name) and _file(f"{found}.{name}", root) else (found, name)


def _canonical(node: object, speaks: bool = False) -> object:
    """The tree without positions, contexts, docstrings, texts for people and empty fields: equal on every supported Python."""
    if isinstance(node, ast.AST):
        if speaks and isinstance(node, ast.Constant) and isinstance(node.value, str):
            return None
        speaks = speaks or _speaks(node)
        fields = {}
        for name, value in ast.iter_fields(node):
            if name in ("ctx", "type_comment", "kind"):
                continue
            if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                value = _without_docstring(value)
            entry = _canonical(value, speaks)
            if entry not in (None, []):
                fields[name] = entry
        return [type(node).__name__, sorted(fields.items())]
    if isinstance(node, list):
        found = [_canonical(item, speaks) for item in node]
        return [item for item in found if item is not None] if speaks else found
    return None if node is None else [type(node).__name__, repr(node)]


def _speaks(node: ast.AST) -> bool:
    """Whether literal text in a node is for people alone: what is raised, printed, reported or described."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return name in _SPEAKING
    return isinstance(node, ast.Raise) or (isinstance(node, ast.keyword) and node.arg in _DESCRIBING)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body
